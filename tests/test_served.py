"""The agent that `langgraph.json` names: made in no time, its model loaded by the first run, once."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI

from tests.fakes import scripted_vlm
from tests.scripted_chat import ANSWER, ZOOM, asked, picture
from vtagent.errors import ModelError
from vtagent.graphs import server as served
from vtagent.graphs.server import zoom_agent
from vtagent.graphs.zoom import ZoomAgent, create_zoom_agent
from vtagent.images import DirectoryImageStore
from vtagent.models import lazy as lazy_module
from vtagent.models.chat import ChatVLM
from vtagent.models.lazy import LazyVLM, sizes_of
from vtagent.models.processor import VLProcessor
from vtagent.visual_tokens import QWEN2_5_VL, QWEN3_VL, VisionSpec

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VTAGENT_MODEL", "VTAGENT_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VTAGENT_IMAGES", str(tmp_path / "images"))


def agent() -> ZoomAgent:
    return asyncio.run(zoom_agent())


def test_runs_that_come_first_at_once_are_given_the_same_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def make(*args: Any, **options: Any) -> ZoomAgent:
        time.sleep(0.05)
        made.append(create_zoom_agent(*args, **options))
        return made[-1]

    monkeypatch.setattr(served, "create_zoom_agent", make)
    served._agent.cache_clear()

    async def ask() -> list[ZoomAgent]:
        return await asyncio.gather(*(zoom_agent() for _ in range(8)))

    assert len({id(agent) for agent in asyncio.run(ask())}) == len(made) == 1


def test_langgraph_json_names_the_agents() -> None:
    declared = json.loads((ROOT / "langgraph.json").read_text(encoding="utf-8"))
    served = {"zoom": "./graphs/server.py:zoom_agent", "documents": "./graphs/server.py:document_agent"}
    assert declared == {"dependencies": ["."], "graphs": served}


@pytest.mark.parametrize("model", ["zoom", "Qwen/Qwen3-VL-2B-Instruct"])
@pytest.mark.parametrize("url", ["", "http://127.0.0.1:9/v1"], ids=["local", "server"])
def test_making_it_takes_no_time_loads_no_model_and_imports_no_package(url: str, model: str) -> None:
    code = """
import asyncio, sys, time
from vtagent.graphs.server import zoom_agent
imported, began = set(sys.modules), time.process_time()
asyncio.run(zoom_agent())
assert time.process_time() - began < 0.1
new = {name.partition(".")[0] for name in set(sys.modules) - imported}
assert new <= sys.stdlib_module_names, new  # what it took to import them would be too long on a slow disk
assert not {"torch", "transformers", "numpy"} & set(sys.modules)
"""
    environment = {**os.environ, "VTAGENT_MODEL": model, "VTAGENT_BASE_URL": url}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environment)


def test_every_run_is_given_the_same_one(tmp_path: Path) -> None:
    first = agent()
    assert agent() is first
    assert isinstance(first.builder.store, DirectoryImageStore)
    assert first.builder.store.path == tmp_path / "images"


def test_the_environment_may_name_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VTAGENT_BASE_URL", "http://localhost:9/v1")
    with pytest.raises(ModelError, match="VTAGENT_MODEL"):
        agent()
    monkeypatch.setenv("VTAGENT_MODEL", "Qwen/Qwen3-VL-2B-Instruct")
    decide: Any = agent().builder.nodes["decide"].runnable
    assert isinstance(decide.model, ChatOpenAI)
    assert (decide.model.model_name, decide.parts.vision) == ("Qwen/Qwen3-VL-2B-Instruct", QWEN3_VL)
    assert decide.model.request_timeout == 120


def test_the_environment_may_set_how_long_a_server_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VTAGENT_TIMEOUT", "7.5")
    model: Any = served._served("any", "http://localhost:9/v1")
    assert model.request_timeout == 7.5


def model_of(agent: ZoomAgent) -> Any:
    decide: Any = agent.builder.nodes["decide"].runnable
    return decide.model


def test_the_environment_may_limit_a_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VTAGENT_MAX_TOKENS", "2000")
    monkeypatch.setenv("VTAGENT_MODEL", "zoom")
    assert model_of(agent()).options == {"max_tokens": 2000}
    monkeypatch.setenv("VTAGENT_BASE_URL", "http://localhost:9/v1")
    assert model_of(agent()).max_tokens == 2000
    monkeypatch.setenv("VTAGENT_MAX_TOKENS", "2k")
    with pytest.raises(ModelError, match=r"^VTAGENT_MAX_TOKENS is '2k'; it must be a whole number above 0$"):
        agent()


def test_the_environment_may_say_where_a_model_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"DEVICE": "cpu", "DTYPE": "bfloat16", "MEMORY": "0.5", "MAX_ROWS": "7"}.items():
        monkeypatch.setenv(f"VTAGENT_{name}", value)
    model = model_of(agent())
    engine = {"memory_bytes": 2**29, "max_rows": 7}
    assert model.options == {"device": "cpu", "dtype": "bfloat16", "engine_options": engine}
    loaded = model.load().engine
    assert (str(loaded.model.dtype), loaded._scheduler.memory.limit) == ("torch.bfloat16", 2**29 * 7 // 8)
    monkeypatch.setenv("VTAGENT_DEVICE", "auto")
    assert model_of(agent()).options["engine_options"]["device_map"] == "auto"


@pytest.mark.parametrize(
    ("name", "value"), [("MEMORY", "-1"), ("MEMORY", "much"), ("MAX_ROWS", "0"), ("DTYPE", "int8")]
)
def test_what_the_environment_says_wrongly_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"VTAGENT_{name}", value)
    with pytest.raises(ModelError, match=f"^VTAGENT_{name} is '{value}'; it must be"):
        agent()


def test_what_servers_show_of_it_can_be_written_as_json_schemas() -> None:
    agent = create_zoom_agent()
    assert {"answer", "views", "usage", "stop"} <= set(agent.get_output_jsonschema()["properties"])
    context: Any = agent.get_context_jsonschema()
    assert {"max_zooms", "scale"} <= set(context["properties"])
    assert "model" not in context["properties"]


# ---------------------------------------------------------------- the model behind it


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[ChatVLM]:
    """The models that were loaded; a script stands for the weights."""
    loaded: list[ChatVLM] = []

    def load(path: str, *, image_store: Any, **options: Any) -> ChatVLM:
        loaded.append(scripted_vlm([ZOOM, ANSWER], image_store=image_store))
        return loaded[-1]

    monkeypatch.setattr(ChatVLM, "from_pretrained", load)
    return loaded


def lazy() -> LazyVLM:
    return LazyVLM(path="somewhere", vision=scripted_vlm([]).vision)


@pytest.mark.parametrize("name", ["base", "zoom"])
def test_a_checkpoints_sizes_are_read_without_loading_it(name: str) -> None:
    from vtagent.models.families import checkpoint_path

    assert sizes_of(name) == VLProcessor.from_pretrained(checkpoint_path(name)).vision


def test_of_a_checkpoint_that_is_not_here_the_name_tells_the_family() -> None:
    assert sizes_of("Qwen/Qwen3-VL-2B-Instruct") == QWEN3_VL
    assert sizes_of("Qwen/Qwen2.5-VL-3B-Instruct") == QWEN2_5_VL


def test_nothing_is_loaded_until_it_is_asked_and_then_once(loads: list[ChatVLM]) -> None:
    model = lazy()
    agent = create_zoom_agent(model)
    assert loads == []
    result = agent.invoke({"messages": [asked("?", picture(256, 192))]})
    assert (result["answer"], result["usage"]["zooms"], len(loads)) == ("48.10", 1, 1)
    assert loads[0].image_store is model.image_store


async def test_the_same_asynchronously(loads: list[ChatVLM]) -> None:
    agent = create_zoom_agent(lazy())
    result = await agent.ainvoke({"messages": [asked("?", picture(256, 192))]})
    assert (result["answer"], len(loads)) == ("48.10", 1)


def test_whoever_comes_while_it_loads_waits(loads: list[ChatVLM]) -> None:
    model = lazy()
    threads = [threading.Thread(target=model.load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1


@pytest.mark.usefixtures("loads")
async def test_it_streams() -> None:
    assert "".join([str(chunk.text) for chunk in lazy().stream([HumanMessage("?")])]).startswith("<think>")
    assert "".join([str(chunk.text) async for chunk in lazy().astream([HumanMessage("?")])]).startswith("<think>")


def test_other_image_sizes_than_were_told_are_refused_at_the_cost_of_one_load(loads: list[ChatVLM]) -> None:
    model = LazyVLM(path="somewhere", vision=QWEN3_VL)
    for _ in range(2):
        with pytest.raises(ModelError, match="somewhere sees VisionSpec"):
            model.invoke("?")
    assert [loaded.engine.closed for loaded in loads] == [True]


def test_of_a_checkpoint_that_was_downloaded_its_own_file_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"patch_size": 8, "merge_size": 2, "size": {"shortest_edge": 256, "longest_edge": 4096}}
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(sizes), encoding="utf-8")
    monkeypatch.setattr(lazy_module, "try_to_load_from_cache", lambda path, name: str(file))
    assert sizes_of("someone/Qwen3-VL-tuned") == VisionSpec(8, 2, 256, 4096)


def test_without_the_hubs_package_the_name_tells_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy_module, "try_to_load_from_cache", None)
    assert sizes_of("Qwen/Qwen2.5-VL-3B-Instruct") == QWEN2_5_VL


@pytest.mark.parametrize("path", ["nowhere/at/all", "/nowhere", "a name"])
def test_what_is_no_checkpoints_id_is_no_error_yet(path: str) -> None:
    assert sizes_of(path) == QWEN3_VL
