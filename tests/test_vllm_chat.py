"""ChatVLM over a server: the zoom graph runs unchanged, and the client needs no torch."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from tests.checkpoints import make_processor
from tests.fake_vllm import FakeVLLM, scripted
from tests.image_samples import encode, scene
from tests.vllm.server import documented
from vtagent.errors import ModelError
from vtagent.graphs.zoom import create_zoom_agent
from vtagent.models.chat import ChatVLM
from vtagent.models.processor import VLProcessor
from vtagent.models.records import KEY
from vtagent.views import View

ROOT = Path(__file__).parent.parent
CALL = '<think>It is small.</think><tool_call>{"name": "zoom_image", "arguments": {}}</tool_call>'
ANSWER = "<think>It is large.</think><answer>48.10</answer>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A processor without a model."""
    folder = tmp_path_factory.mktemp("processor")
    make_processor().save_pretrained(folder)
    return folder


@pytest.fixture
def server(folder: Path) -> Iterator[FakeVLLM]:
    with FakeVLLM(VLProcessor.from_pretrained(folder)) as server:
        yield server


@pytest.fixture
def model(server: FakeVLLM, folder: Path) -> Iterator[ChatVLM]:
    model = ChatVLM.from_server(f"{server.url}/v1", folder, engine_options={"backoff": 0.001})
    yield model
    model.engine.close()


def question(model: ChatVLM) -> HumanMessage:
    return HumanMessage(
        [View(model.image_store.put(encode(scene((256, 128))))).block(), {"type": "text", "text": "What is the total?"}]
    )


def test_a_model_from_a_server_has_its_name_and_context(model: ChatVLM) -> None:
    assert model.model_name == "tiny"
    assert model.profile is not None
    assert model.profile["max_input_tokens"] == 4096


def test_the_graph_zooms_and_answers(model: ChatVLM, server: FakeVLLM) -> None:
    server.policy = scripted(server.processor, CALL, ANSWER)
    state = create_zoom_agent(model).invoke({"messages": [question(model)]})
    assert (state["answer"], state["usage"]["zooms"]) == ("48.10", 1)
    first, second = server.generations
    assert [len(body["content_parts"]) for body in (first, second)] == [1, 2]


def test_a_second_turn_repeats_what_was_sampled_id_by_id(model: ChatVLM, server: FakeVLLM) -> None:
    server.policy = scripted(server.processor, CALL, ANSWER)
    state = create_zoom_agent(model).invoke({"messages": [question(model)]})
    said = next(message for message in state["messages"] if isinstance(message, AIMessage))
    record = said.response_metadata[KEY]
    known = record["prompt_ids"] + record["completion_ids"]
    assert server.generations[1]["token_ids"][: len(known)] == known


def test_visual_tokens_and_cache_hits_are_in_the_usage(model: ChatVLM, server: FakeVLLM) -> None:
    server.cached = 5
    reply = model.invoke([question(model)])
    assert reply.usage_metadata is not None
    assert reply.usage_metadata["input_token_details"] == {"image": 32, "cache_read": 5}


def test_a_stop_text_ends_the_reply(model: ChatVLM, server: FakeVLLM) -> None:
    server.policy = scripted(server.processor, ANSWER)
    assert model.invoke("What?", stop=["</think>"]).text == "<think>It is large."


async def test_async_calls_stream_what_they_say(model: ChatVLM, server: FakeVLLM) -> None:
    server.policy = scripted(server.processor, ANSWER)
    chunks = [chunk.text async for chunk in model.astream("What?")]
    assert "".join(chunks) == ANSWER
    assert len(chunks) > 5


def test_a_server_that_is_not_there_is_told_at_once(folder: Path) -> None:
    with pytest.raises(ModelError, match="does not answer"):
        ChatVLM.from_server("http://127.0.0.1:9", folder, engine_options={"retries": 0})


def test_the_example_runs(
    server: FakeVLLM, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.policy = scripted(server.processor, CALL, ANSWER)
    page = str(ROOT / "examples" / "documents" / "small-print.png")
    monkeypatch.setattr(sys, "argv", ["served_by_vllm", server.url, str(folder), page, "What is the Total?"])
    runpy.run_path(str(ROOT / "examples" / "served_by_vllm.py"))
    assert "48.10 (1 zooms, " in capsys.readouterr().out


def test_the_snippets_of_the_docs_run(server: FakeVLLM, folder: Path, tmp_path: Path) -> None:
    step = tmp_path / "step-200"
    step.mkdir()
    (step / "model.safetensors").touch()
    text = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8").partition("## With vLLM")[2]
    snippets = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(snippets) >= 4
    names: dict[str, Any] = {}
    for snippet in snippets:
        here = snippet.replace("http://127.0.0.1:8000", server.url)
        here = here.replace("/checkpoints/step-200", str(step))
        here = re.sub(r'(from_server\(\s*"[^"]+",\s*)"Qwen/[^"]+"', rf'\1"{folder}"', here)
        exec(compile(here, "serve.md", "exec"), names)
    assert "/collective_rpc" in server.orders
    for engine in [value.engine for value in names.values() if isinstance(value, ChatVLM)]:
        engine.close()


@pytest.mark.parametrize("model", ["Qwen/Qwen3-VL-8B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct", "vtagent/policies/zoom"])
def test_the_docs_say_how_each_family_is_served(model: str) -> None:
    _, options = documented(model)
    assert "--enable-scale-out" in options
    assert ("--chat-template" in options) == ("2.5" in model)


def test_a_client_needs_no_torch(folder: Path, server: FakeVLLM) -> None:
    code = f"""
from importlib.machinery import PathFinder
find = PathFinder.find_spec
hidden = {{"torch", "torchvision", "accelerate", "peft"}}
PathFinder.find_spec = classmethod(
    lambda cls, name, path=None, target=None: None if name.partition(".")[0] in hidden else find(name, path, target)
)
from vtagent.models import ChatVLM
model = ChatVLM.from_server({server.url!r}, {str(folder)!r})
model.invoke("What?")
model.engine.close()
import sys
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
