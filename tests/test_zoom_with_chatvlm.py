"""The graph and ChatVLM together: what was sampled is never re-tokenised, and a random model ends like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from langgraph.checkpoint.sqlite import SqliteSaver

from tests.checkpointers import IN_MEMORY
from tests.checkpoints import make_checkpoint
from tests.fakes import scripted_vlm
from tests.scripted_chat import ANSWER, ZOOM, asked, picture
from vtagent.graphs.zoom import create_zoom_agent
from vtagent.models.chat import ChatVLM


def test_two_turns_are_one_growing_prompt() -> None:
    model = scripted_vlm([ZOOM, ANSWER])
    result = create_zoom_agent(model).invoke({"messages": [asked("What is the total?", picture(256, 192))]})
    assert (result["answer"], result["usage"]["zooms"], result["usage"]["mistakes"]) == ("48.10", 1, 0)
    first, second = model.engine.requests
    said = tuple(result["messages"][1].response_metadata["tokens"]["completion_ids"])
    assert second.token_ids[: len(first.token_ids) + len(said)] == first.token_ids + said
    assert [image.pixels.size for image in second.images] == [(128, 96), (256, 192)]


def test_the_graphs_count_of_visual_tokens_is_the_models() -> None:
    model = scripted_vlm([ZOOM, ANSWER])
    result = create_zoom_agent(model).invoke({"messages": [asked("What is the total?", picture(256, 192))]})
    last = result["messages"][-1].usage_metadata["input_token_details"]["image"]
    assert last == result["usage"]["visual_tokens"]


def test_a_forced_answer_keeps_the_prompts_prefix() -> None:
    model = scripted_vlm(["<think>a</think><tool_call>x</tool_call>", ANSWER])
    agent = create_zoom_agent(model)
    result = agent.invoke({"messages": [asked("?", picture(256, 192))]}, context={"max_mistakes": 0})
    assert (result["stop"], result["usage"]["mistakes"], result["answer"]) == ("max_mistakes", 1, "48.10")
    first, second = model.engine.requests
    assert second.token_ids[: len(first.token_ids)] == first.token_ids


@IN_MEMORY
def test_a_random_checkpoint_ends_and_is_stored(tmp_path: Path) -> None:
    model = ChatVLM.from_pretrained(
        make_checkpoint(tmp_path / "model", "qwen3_vl"), max_tokens=24, temperature=1.0, seed=3
    )
    config: Any = {"configurable": {"thread_id": "1"}}
    with SqliteSaver.from_conn_string(str(tmp_path / "state.sqlite")) as saver:
        agent = create_zoom_agent(model, checkpointer=saver)
        result = agent.invoke({"messages": [asked("What is the total?", picture(256, 192))]}, config)
    model.engine.close()
    assert result["usage"]["turns"] >= 1
    assert result["answer"] is not None or result["stop"] is not None
    assert (tmp_path / "state.sqlite").stat().st_size < 100_000
