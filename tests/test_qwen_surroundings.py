"""ChatVLM in Qwen's own surroundings: the real tokenizer, and templates that behave as the stock ones.

Over two turns, text and ids are those of transformers' processor and chat template, thinking variants included.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import tiktoken
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from tests.checkpoints import make_model
from tests.fakes import ScriptedEngine
from tests.image_samples import encode, scene
from tests.qwen import STOCK, VARIANTS, Variant, family_of, qwen_processor, qwen_tokenizer, ranks
from tests.rescoring import rescored
from vtagent.graphs.zoom import create_zoom_agent
from vtagent.models.chat import ChatVLM
from vtagent.models.decision import Decision
from vtagent.models.families import chat_template, tool_template
from vtagent.models.local.engine import TransformersEngine
from vtagent.models.processor import VLProcessor
from vtagent.models.records import KEY
from vtagent.views import View

THOUGHT = "The total is too small to read.\n</think>\n\n"
"""A thought as a thinking model says it: its prompt has opened it."""
CALL = '<tool_call>\n{"name": "zoom_image", "arguments": {"region": [500, 700, 1000, 900]}}\n</tool_call>'
ANSWER = "<answer>48.10</answer>"


def zoom_image(region: list[int]) -> str:
    """See a region of the image at full resolution."""
    return ""


@pytest.fixture(scope="module")
def processors() -> dict[Variant, VLProcessor]:
    return {variant: qwen_processor(variant) for variant in VARIANTS}


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> Variant:
    name: Variant = request.param
    return name


def replies(variant: Variant) -> list[str]:
    return [THOUGHT + CALL, THOUGHT + ANSWER] if variant == "Qwen3-VL-Thinking" else [f"I look.\n{CALL}", ANSWER]


def scripted(processor: VLProcessor, script: list[str]) -> ChatVLM:
    return ChatVLM(engine=ScriptedEngine(processor, script), processor=processor)


def question(model: ChatVLM) -> list[BaseMessage]:
    image = View(model.image_store.put(encode(scene((230, 170)))), scale=0.5).block()
    return [SystemMessage("Look first."), HumanMessage([image, {"type": "text", "text": "What is the total (合計)?"}])]


def zoomed(model: ChatVLM, call: AIMessage) -> ToolMessage:
    view = View(model.image_store.put(encode(scene((230, 170)))))
    return ToolMessage([{"type": "text", "text": "230x170"}, view.block()], tool_call_id=call.tool_calls[0]["id"] or "")


def as_transformers(messages: list[BaseMessage], model: ChatVLM) -> list[dict[str, Any]]:
    """A conversation as people write it for `apply_chat_template`."""
    images = iter(model.images(messages))
    roles = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool"}
    told: list[dict[str, Any]] = []
    for message in messages:
        blocks = [message.content] if isinstance(message.content, str) else message.content
        content: list[dict[str, Any]] = []
        for block in blocks:
            text = block if isinstance(block, str) else block.get("text")
            content.append(
                {"type": "image", "image": next(images).pixels} if text is None else {"type": "text", "text": text}
            )
        entry: dict[str, Any] = {"role": roles[message.type], "content": content}
        if isinstance(message, AIMessage) and message.tool_calls:
            entry["tool_calls"] = [
                {"type": "function", "function": {"name": call["name"], "arguments": call["args"]}}
                for call in message.tool_calls
            ]
        told.append(entry)
    return told


def reference(model: ChatVLM, messages: list[BaseMessage], tools: Any) -> tuple[str, list[int]]:
    """Text and expanded ids by transformers' processor."""
    processor = model.processor
    told = as_transformers(messages, model)
    text = processor.apply_chat_template(told, tools=tools, add_generation_prompt=True, tokenize=False)
    whole = processor.apply_chat_template(
        told, tools=tools, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    return str(text), whole["input_ids"][0].tolist()


# --- the tokenizer ---


def test_the_added_tokens_have_the_ids_of_the_checkpoints(processors: dict[Variant, VLProcessor]) -> None:
    old, new = (processors[name].tokenizer.get_vocab() for name in ("Qwen2.5-VL", "Qwen3-VL"))
    ids = {
        "<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645, "<|vision_start|>": 151652,
        "<|vision_end|>": 151653, "<|vision_pad|>": 151654, "<|image_pad|>": 151655, "<|video_pad|>": 151656,
        "<tool_call>": 151657, "</tool_call>": 151658, "<|file_sep|>": 151664,
    }  # fmt: skip
    assert {name: old[name] for name in ids} == ids
    later = {"<tool_response>": 151665, "</tool_response>": 151666, "<think>": 151667, "</think>": 151668}
    assert {name: new[name] for name in (ids | later)} == ids | later
    assert (len(old), len(new)) == (151665, 151669)
    assert not set(later) & set(old)


REFERENCE = tiktoken.Encoding("qwen", pat_str=PRETOKENIZE_REGEX, mergeable_ranks=ranks(), special_tokens={})
TOKENIZER = qwen_tokenizer("Qwen3-VL")


@settings(max_examples=200)
@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cn", "Co", "Mn", "Mc"]), max_size=60))
def test_text_is_cut_as_by_the_merges_themselves(text: str) -> None:
    import unicodedata

    text = unicodedata.normalize("NFC", text).replace("<", "(")
    assert TOKENIZER.encode(text) == REFERENCE.encode(text)


# --- templates ---


def test_qwen3_keeps_its_own_template_and_qwen25_gets_one_that_knows_tools(
    processors: dict[Variant, VLProcessor],
) -> None:
    assert processors["Qwen3-VL"].chat_template == STOCK["Qwen3-VL"]
    assert processors["Qwen3-VL-Thinking"].chat_template == STOCK["Qwen3-VL-Thinking"]
    assert processors["Qwen2.5-VL"].chat_template == tool_template()


def test_a_template_with_calls_in_another_form_than_json_is_replaced(processors: dict[Variant, VLProcessor]) -> None:
    own = STOCK["Qwen3-VL"]
    xml = own.replace(
        """'<tool_call>\\n{"name": "' + call.function.name + '", "arguments": '""", "'<tool_call>\\n<function='"
    )
    assert xml != own
    assert chat_template(xml, processors["Qwen3-VL"].tokenizer) == tool_template()


# --- two turns, token for token ---


def test_two_turns_are_text_and_ids_of_transformers(variant: Variant, processors: dict[Variant, VLProcessor]) -> None:
    model = scripted(processors[variant], replies(variant))
    bound: Any = model.bind_tools([zoom_image])
    told = question(model)
    for _ in range(2):
        text, ids = reference(model, told, bound.kwargs["tools"])
        prompt = model.prompt_ids(told, **bound.kwargs)
        assert model._codec._text(prompt) == text
        assert model.expand(prompt, model.images(told)) == ids
        assert model.get_num_tokens_from_messages(told, tools=[zoom_image]) == len(ids)
        reply = bound.invoke(told)
        told.append(reply)
        if reply.tool_calls:
            told.append(zoomed(model, reply))
    assert [call["name"] for call in told[2].tool_calls] == ["zoom_image"]  # type: ignore[attr-defined]
    assert str(told[-1].content).endswith(ANSWER)


def test_a_conversation_without_records_is_rendered_to_the_same_text(
    variant: Variant, processors: dict[Variant, VLProcessor]
) -> None:
    model = scripted(processors[variant], replies(variant))
    bound: Any = model.bind_tools([zoom_image])
    told = question(model)
    told.append(bound.invoke(told))
    told.append(zoomed(model, told[-1]))  # type: ignore[arg-type]
    bare = [message.model_copy(update={"response_metadata": {}}) for message in told]
    assert model.prompt_ids(bare, **bound.kwargs) == model.prompt_ids(told, **bound.kwargs)


def test_the_graph_zooms_and_answers(variant: Variant, processors: dict[Variant, VLProcessor]) -> None:
    # A box that is inside the view for Qwen2.5-VL, which writes pixels, and for Qwen3-VL, which writes thousandths.
    script = [reply.replace("[500, 700, 1000, 900]", "[50, 40, 100, 80]") for reply in replies(variant)]
    model = scripted(processors[variant], script)
    state = create_zoom_agent(model).invoke({"messages": question(model)[1:]})
    assert (state["answer"], state["usage"]["zooms"], state["usage"]["mistakes"]) == ("48.10", 1, 0)


def test_a_call_is_not_forced_inside_of_the_thought_that_a_template_opens(
    processors: dict[Variant, VLProcessor],
) -> None:
    model = scripted(processors["Qwen3-VL-Thinking"], ['\n{"name": "zoom_image", "arguments": {}}\n</tool_call>'] * 2)
    bound: Any = model.bind_tools([zoom_image], tool_choice="any")
    told = question(model)
    reply = bound.invoke(told)
    assert model.engine.prompts[0].endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n<tool_call>")
    assert (reply.content, [call["name"] for call in reply.tool_calls]) == ("", ["zoom_image"])
    bound.invoke(told, prefill="It is small.")
    assert model.engine.prompts[1].endswith("<think>\nIt is small.\n</think>\n\n<tool_call>")
    _, ids = reference(model, [*told, reply, zoomed(model, reply)], bound.kwargs["tools"])
    prompt = model.prompt_ids([*told, reply, zoomed(model, reply)], tools=bound.kwargs["tools"])
    assert model._codec._text(prompt).count("</think>\n\n<tool_call>") == 1
    assert len(model.expand(prompt, model.images([*told, reply, zoomed(model, reply)]))) > 0
    assert ids


def test_the_dial_reads_thoughts_of_several_tokens(processors: dict[Variant, VLProcessor]) -> None:
    """Qwen2.5-VL has no token `<think>`, and its merges cross the borders of the tag."""
    codec = scripted(processors["Qwen2.5-VL"], [])._codec
    decision = Decision(codec.call_bias(20.0, ""))
    acted = []
    for token in codec.encode("<think>It is.</think>\n<answer>4</answer>"):
        if decision.place == "decision":
            acted.append(codec.token(token))
        decision.push(token)
    assert acted == ["<th", "<"]


# --- with weights ---


@pytest.fixture(scope="module", params=VARIANTS)
def weighted(request: pytest.FixtureRequest, processors: dict[Variant, VLProcessor]) -> Iterator[ChatVLM]:
    variant: Variant = request.param
    processor = processors[variant]
    engine = TransformersEngine(make_model(family_of(variant), processor), processor)
    yield ChatVLM(engine=engine, processor=processor, max_tokens=12)
    engine.close()


def test_the_second_turn_samples_what_transformers_samples_from_the_whole_conversation(weighted: ChatVLM) -> None:
    variant = next(name for name in VARIANTS if weighted.processor.chat_template == (
        tool_template() if name == "Qwen2.5-VL" else STOCK[name]))  # fmt: skip
    first = scripted(weighted.processor, replies(variant))
    told = question(weighted)
    first.image_store = weighted.image_store
    first = ChatVLM(engine=first.engine, processor=weighted.processor, image_store=weighted.image_store)
    bound: Any = weighted.bind_tools([zoom_image])
    call = first.bind(**bound.kwargs).invoke(told)
    told += [call, zoomed(weighted, call)]
    reply = bound.invoke(told)

    whole = weighted.processor.apply_chat_template(
        as_transformers(told, weighted),
        tools=bound.kwargs["tools"],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    engine = weighted.engine
    assert isinstance(engine, TransformersEngine)
    with torch.no_grad():
        out = engine.model.generate(
            **whole,
            do_sample=False,
            max_new_tokens=12,
            suppress_tokens=sorted(engine.banned),
        )
    sampled = reply.response_metadata[KEY]["completion_ids"]
    assert out[0, whole["input_ids"].shape[1] :].tolist() == sampled


def test_sampled_runs_are_token_exact_and_rescoring_gives_their_logprobs(weighted: ChatVLM) -> None:
    bound: Any = weighted.bind_tools([zoom_image], temperature=1.0, seed=5)
    told = question(weighted)
    told.append(bound.invoke(told, tool_choice="any"))
    told.append(ToolMessage(["230x170", question(weighted)[1].content[0]], tool_call_id="1"))
    told.append(bound.invoke(told, tool_choice="none"))
    ids: list[int] = []
    for place, message in enumerate(told):
        if isinstance(message, AIMessage):
            record = message.response_metadata[KEY]
            prompt = ids + record["prompt_ids"]
            images = weighted.images(told[:place])
            plain = rescored(weighted.engine, prompt, record["completion_ids"], images, temperature=1.0)
            assert record["logprobs"] == pytest.approx(plain, abs=1e-4)
            ids = prompt + record["completion_ids"]
    assert weighted.prompt_ids([*told, HumanMessage("Thanks.")], **bound.kwargs)[: len(ids)] == ids
