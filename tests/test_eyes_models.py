"""From a model object or a name to its eyes: through real classes of the official packages, wrappers, and servers."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from langchain.chat_models import init_chat_model
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatResult
from langchain_core.runnables import ConfigurableField
from langchain_google_genai import ChatGoogleGenerativeAI
from langchain_ollama import ChatOllama
from langchain_openai import AzureChatOpenAI, ChatOpenAI
from pydantic import SecretStr

from vtagent.eyes import FAMILIES, KnownFamily, UnknownModelWarning, Vision, eyes_of, family_of, lookup
from vtagent.eyes.rules import ClaudePatches, Gemini3Grid, GptTiles
from vtagent.images import MemoryImageStore
from vtagent.models.openai_server import served_vlm
from vtagent.models.pixel_model import PixelModel
from vtagent.visual_tokens import QWEN2_5_VL, QWEN3_VL

KEY = SecretStr("no key")
SCHEMA = {"title": "t", "description": "d", "type": "object", "properties": {}}


@pytest.fixture(autouse=True)
def nobody_told() -> Iterator[None]:
    """Each test may be told of the same model."""
    lookup._told.clear()
    yield
    lookup._told.clear()


def gpt(model: str = "gpt-4o", **options: Any) -> ChatOpenAI:
    return ChatOpenAI(model=model, api_key=KEY, **options)


def claude() -> ChatAnthropic:
    return ChatAnthropic(model_name="claude-opus-4-7", api_key=KEY, timeout=None, stop=None)


def gemini(model: str) -> ChatGoogleGenerativeAI:
    return ChatGoogleGenerativeAI(model=model, api_key=KEY)


class SomebodysModel(BaseChatModel):
    """A chat model that no table knows."""

    name_of_it: str = ""

    @property
    def model_name(self) -> str:
        return self.name_of_it

    @property
    def _llm_type(self) -> str:
        return "somebody's"

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        raise NotImplementedError


def test_chat_completions_puts_images_of_tools_into_a_user_message_whatever_the_profile_says() -> None:
    model = gpt()
    assert model.profile is not None
    assert model.profile["image_tool_message"] is True
    eyes = eyes_of(model)
    assert (eyes.wire, eyes.tool_images, eyes.boxes) == ("chat completions", "user message", "thousandths")
    assert eyes.vision.tokens(1024, 768) == 765
    assert eyes.takes_images is True


@pytest.mark.parametrize(
    "model",
    [
        gpt(use_responses_api=True),
        gpt(output_version="responses/v1"),
        gpt("gpt-5-pro"),
        gpt("gpt-5", reasoning={"effort": "low"}),
        gpt("gpt-6-astra"),
        gpt("gpt-5").bind(reasoning={"effort": "low"}),
        gpt("gpt-5").bind_tools([{"type": "web_search"}]),
    ],
    ids=["asked for", "output version", "by name", "reasoning", "with tools", "bound", "built-in tool"],
)
def test_the_responses_api_takes_images_in_a_tools_output(model: Any) -> None:
    eyes = eyes_of(model)
    assert (eyes.wire, eyes.tool_images) == ("responses", "tool message")


def test_a_call_that_is_forced_to_chat_completions_stays_there() -> None:
    assert eyes_of(gpt("gpt-6-astra", use_responses_api=False)).wire == "chat completions"


def test_azure_is_known_by_its_deployment() -> None:
    model = AzureChatOpenAI(
        azure_deployment="our-gpt-4o-eu",
        api_version="2024-10-21",
        azure_endpoint="https://x.openai.azure.com",
        api_key=KEY,
    )
    eyes = eyes_of(model)
    assert (eyes.name, eyes.wire) == ("GPT-4o, 4.1, 4.5", "chat completions")


def test_claude_says_where_in_pixels_and_takes_images_in_tool_results() -> None:
    eyes = eyes_of(claude())
    assert (eyes.vision, eyes.boxes, eyes.tool_images) == (ClaudePatches(2576, 4784), "pixels as shown", "tool message")
    assert (eyes.limits.max_side, eyes.limits.many_images, eyes.limits.many_images_side) == (8000, 20, 2000)


def test_gemini_says_where_y_first_and_carries_its_setting() -> None:
    eyes = eyes_of(gemini("gemini-3-pro-preview"))
    assert (eyes.boxes, eyes.tool_images) == ("thousandths, y first", "tool message")
    assert eyes.low_setting is not None
    assert eyes.low_setting.extras == {"media_resolution": "MEDIA_RESOLUTION_LOW"}
    assert eyes_of(gemini("gemini-2.5-flash")).low_setting is None


def test_ollama_has_the_grid_of_the_checkpoint() -> None:
    eyes = eyes_of(ChatOllama(model="qwen2.5vl:7b"))
    assert (eyes.vision, eyes.boxes, eyes.tool_images) == (QWEN2_5_VL, "pixels as shown", "user message")


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("qwen2.5vl:7b", "Qwen2.5-VL"),
        ("Qwen/Qwen2.5-VL-7B-Instruct", "Qwen2.5-VL"),
        ("qwen2_5_vl", "Qwen2.5-VL"),
        ("qwen3-vl:8b", "Qwen3-VL"),
        ("Qwen/Qwen3-VL-2B-Instruct", "Qwen3-VL"),
        ("Qwen/Qwen3.5-9B", "Qwen3-VL"),
        ("qwen3:8b", None),
        ("gpt-4o-mini-2024-07-18", "GPT-4o mini"),
        ("chatgpt-4o-latest", "GPT-4o, 4.1, 4.5"),
        ("gpt-4.1", "GPT-4o, 4.1, 4.5"),
        ("gpt-4.1-mini-2025-04-14", "GPT-4.1 mini"),
        ("gpt-4.1-nano", "GPT-4.1 nano"),
        ("openai/gpt-4-turbo", "GPT-4o, 4.1, 4.5"),
        ("gpt-4", None),
        ("o4-mini", "o4-mini"),
        ("openai/o3", "o1, o3"),
        ("gpt-5-2025-08-07", "GPT-5, 5.1"),
        ("gpt-5.1-chat-latest", "GPT-5, 5.1"),
        ("gpt-5-mini", "GPT-5 mini"),
        ("gpt-5.1-codex-mini", "GPT-5 mini"),
        ("gpt-5-nano", "GPT-5 nano"),
        ("gpt-5.2-codex", "GPT-5.2, 5.3"),
        ("gpt-5.4-mini", "GPT-5.4"),
        ("gpt-5.5", "GPT-5.5"),
        ("gpt-5.6-luna", "GPT-5.6 and later"),
        ("gpt-6-astra", "GPT-5.6 and later"),
        ("gpt-oss:20b", None),
        ("claude-3-5-sonnet-20241022", "Claude, standard"),
        ("claude-sonnet-4-20250514", "Claude, standard"),
        ("claude-opus-4-1-20250805", "Claude, standard"),
        ("claude-opus-4-6", "Claude, standard"),
        ("claude-opus-4-7", "Claude, high resolution"),
        ("anthropic/claude-opus-4.8", "Claude, high resolution"),
        ("claude-sonnet-5", "Claude, high resolution"),
        ("claude-fable-5", "Claude, high resolution"),
        ("claude-opus-5-5-20261001", "Claude, high resolution"),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "Claude, standard"),
        ("claude-opus-4-1@20250805", "Claude, standard"),
        ("gemini-3-pro-preview", "Gemini 3 and later"),
        ("models/gemini-3.6-flash", "Gemini 3 and later"),
        ("gemini-2.5-flash", "Gemini 2"),
        ("google/gemini-2.0-flash-001", "Gemini 2"),
        ("llava:13b", None),
        ("", None),
    ],
)
def test_a_name_has_its_family(name: str, family: str | None) -> None:
    found = family_of(name)
    assert (found and found.name) == family


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_example_of_a_family_is_in_it_and_every_fact_has_a_source(family: KnownFamily) -> None:
    assert family_of(family.example) is family
    eyes = eyes_of(family.example)
    assert eyes.known
    assert eyes.sources
    for fact in eyes.sources:
        assert fact.fact
        assert fact.source
        assert fact.date.startswith("20")
        assert fact.trust in ("D", "S", "M", "?")


@pytest.mark.parametrize(
    ("text", "wire", "model"),
    [
        ("openai:gpt-4o", "chat completions", "gpt-4o"),
        ("anthropic:claude-opus-4-7", "anthropic", "claude-opus-4-7"),
        ("google_genai:gemini-3-pro-preview", "gemini", "gemini-3-pro-preview"),
        ("bedrock_converse:us.anthropic.claude-sonnet-4-5-20250929-v1:0", "bedrock", None),
        ("ollama:qwen2.5vl:7b", "ollama", "qwen2.5vl:7b"),
        ("qwen2.5vl:7b", "chat completions", "qwen2.5vl:7b"),
    ],
)
def test_a_string_names_the_provider_too(text: str, wire: str, model: str | None) -> None:
    eyes = eyes_of(text)
    assert eyes.known
    assert eyes.wire == wire
    assert eyes.model == (model or text.partition(":")[2])


def test_a_server_of_somebody_else_is_known_by_its_checkpoint() -> None:
    served = served_vlm("Qwen/Qwen2.5-VL-7B-Instruct", "http://localhost:8000/v1", 1.0)  # a subclass of ChatOpenAI
    eyes = eyes_of(served)
    assert (eyes.vision, eyes.boxes, eyes.tool_images) == (QWEN2_5_VL, "pixels as shown", "user message")
    router = gpt("anthropic/claude-opus-4.7", base_url="https://openrouter.ai/api/v1")
    assert (eyes_of(router).vision, eyes_of(router).tool_images) == (ClaudePatches(2576, 4784), "user message")


def test_a_setting_that_does_not_reach_the_model_saves_nothing() -> None:
    eyes = eyes_of(gpt("gemini-3-pro-preview", base_url="https://generativelanguage.googleapis.com/v1beta/openai/"))
    assert eyes.low_setting is None
    assert eyes.vision == Gemini3Grid(setting=False)
    assert eyes.vision.low(4032, 3024, 0.5) == eyes.vision.fit(4032, 3024)
    somebodys = eyes_of(SomebodysModel(name_of_it="gpt-4o"))
    assert (somebodys.low_setting, somebodys.vision) == (None, GptTiles(85, 170, setting=False))


def configured() -> Any:
    return gpt().configurable_fields(model_name=ConfigurableField(id="which"))


@pytest.mark.parametrize(
    ("model", "family"),
    [
        (gpt().bind_tools([]), "GPT-4o, 4.1, 4.5"),
        (gpt().bind(stop=["x"]).with_config(tags=["t"]).with_retry(), "GPT-4o, 4.1, 4.5"),
        (gpt().with_fallbacks([gpt("gpt-5")]), "GPT-4o, 4.1, 4.5"),
        (
            gpt().with_structured_output({"title": "t", "description": "d", "type": "object", "properties": {}}),
            "GPT-4o, 4.1, 4.5",
        ),
        (gpt() | StrOutputParser(), "GPT-4o, 4.1, 4.5"),
        (configured(), "GPT-4o, 4.1, 4.5"),
        (configured().with_config(configurable={"which": "gpt-5"}), "GPT-5, 5.1"),
        (init_chat_model("openai:gpt-4o", api_key="no key", configurable_fields="any"), "GPT-4o, 4.1, 4.5"),
        (
            init_chat_model("openai:gpt-4o", api_key="no key", configurable_fields="any").with_config(
                configurable={"model": "gpt-5"}
            ),
            "GPT-5, 5.1",
        ),
        (init_chat_model("openai:gpt-4o", api_key="no key"), "GPT-4o, 4.1, 4.5"),
        (PixelModel.over(gpt(), MemoryImageStore(), QWEN3_VL), "GPT-4o, 4.1, 4.5"),
        (PixelModel.over(gpt(), MemoryImageStore(), QWEN3_VL).bind(stop=["x"]), "GPT-4o, 4.1, 4.5"),
    ],
)
def test_wrappers_are_looked_through(model: Any, family: str) -> None:
    assert eyes_of(model).name == family


def test_a_configurable_model_that_cannot_be_made_now_is_known_by_its_name() -> None:
    model = init_chat_model("mistralai:pixtral-12b", configurable_fields="any")
    with pytest.warns(UnknownModelWarning, match="pixtral-12b"):
        assert not eyes_of(model).known
    with pytest.warns(UnknownModelWarning):
        assert not eyes_of(init_chat_model(configurable_fields="any")).known


def test_an_unknown_model_is_told_once_what_is_assumed() -> None:
    model = gpt("llava:13b", base_url="http://gpu-7:8000/v1")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        eyes = eyes_of(model)
        eyes_of(model)
    [warning] = told
    assert warning.category is UnknownModelWarning
    assert warning.filename == __file__
    for said in ("ChatOpenAI('llava:13b')", "gpu-7", "32 x 32", "thousandths", "user message", "override="):
        assert said in str(warning.message)
    assert (eyes.known, eyes.vision, eyes.boxes) == (False, QWEN3_VL, "thousandths")
    assert any(fact.trust == "?" for fact in eyes.sources)


def test_the_profile_is_believed_where_the_api_is_unknown() -> None:
    model = SomebodysModel(name_of_it="gpt-5", profile={"image_tool_message": True, "image_inputs": False})
    eyes = eyes_of(model)
    assert (eyes.tool_images, eyes.takes_images) == ("tool message", False)
    assert eyes_of(SomebodysModel(name_of_it="gpt-5")).tool_images == "user message"


def test_a_model_that_brings_its_own_vision_is_not_guessed_at() -> None:
    class Own(SomebodysModel):
        @property
        def vision(self) -> Vision:
            return QWEN2_5_VL

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        eyes = eyes_of(Own())
    assert (eyes.known, eyes.vision, eyes.name) == (True, QWEN2_5_VL, "its own")


def test_the_caller_knows_better() -> None:
    model = SomebodysModel(name_of_it="pixtral")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert eyes_of(model, override=QWEN2_5_VL).vision == QWEN2_5_VL
        assert eyes_of(model, override="qwen2.5vl:7b").boxes == "pixels as shown"
        assert eyes_of(model, override={"tool_images": "tool message"}).tool_images == "tool message"
        assert eyes_of(gpt(), override=QWEN2_5_VL).low_setting is None
        assert eyes_of(gpt(), override=GptTiles(80, 160)).low_setting is not None
        whole = eyes_of("gpt-4o")
        assert eyes_of(model, override=whole) is whole
        assert not eyes_of(model, warn=False).known
    with pytest.raises(ValueError, match="not the name of a known model"):
        eyes_of(model, override="pixtral")
    with pytest.raises(ValueError, match="fields of Eyes"):
        eyes_of(model, override={"eyesight": 1})


PIXELS = ("iVBORw0KGgo=", "image/png")
PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==",
    "image/png",
)


def payload(model: ChatOpenAI, content: list[Any], *, by_tool: bool = False) -> str:
    messages: list[Any] = [HumanMessage(content)]
    if by_tool:
        call = {"name": "zoom_image", "args": {}, "id": "1"}
        messages = [HumanMessage("?"), AIMessage("", tool_calls=[call]), ToolMessage(content, tool_call_id="1")]
    return str(model._get_request_payload(messages))


def test_the_low_setting_reaches_chat_completions() -> None:
    eyes = eyes_of(gpt())
    assert "'detail': 'low'" in payload(gpt(), [eyes.block(*PIXELS, low=True)])
    assert "detail" not in payload(gpt(), [eyes.block(*PIXELS)])


@pytest.mark.parametrize("by_tool", [False, True])
def test_the_low_setting_reaches_the_responses_api(by_tool: bool) -> None:
    model = gpt(use_responses_api=True)
    sent = payload(model, [eyes_of(model).block(*PIXELS, low=True)], by_tool=by_tool)
    assert "input_image" in sent
    assert "'detail': 'low'" in sent


@pytest.mark.parametrize("by_tool", [False, True])
def test_the_low_setting_reaches_gemini(by_tool: bool) -> None:
    from langchain_google_genai.chat_models import _parse_chat_history

    block = eyes_of(gemini("gemini-3-pro-preview")).block(*PNG, low=True)
    messages: list[Any] = [HumanMessage([block])]
    if by_tool:
        call = {"name": "zoom_image", "args": {}, "id": "1"}
        messages = [HumanMessage("?"), AIMessage("", tool_calls=[call]), ToolMessage([block], tool_call_id="1")]
    _, contents = _parse_chat_history(messages, model="gemini-3-pro-preview")
    assert "MEDIA_RESOLUTION_LOW" in str(contents)
    assert "inline_data" in str(contents[-1])


def test_claude_and_ollama_take_the_block_as_it_is() -> None:
    model = claude()
    sent = model._get_request_payload([HumanMessage([eyes_of(model).block(*PNG, low=True)])])
    assert sent["messages"][0]["content"][0]["source"]["type"] == "base64"
    ollama = ChatOllama(model="qwen2.5vl:7b")
    [message] = ollama._convert_messages_to_ollama_messages([HumanMessage([eyes_of(ollama).block(*PNG)])])
    assert list(message["images"]) == [PNG[0]]


def test_the_room_imports_no_provider_and_no_torch() -> None:
    code = """
import sys
from vtagent.eyes import eyes_of
eyes_of("openai:gpt-4o"), eyes_of("claude-opus-4-7"), eyes_of("qwen2.5vl:7b")
heavy = {"torch", "numpy", "transformers", "openai", "langchain_openai", "langchain_anthropic", "langchain_ollama"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
