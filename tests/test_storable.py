"""Whatever a server says is stored, read back and followed by the next turn, in the graph and with the middleware."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, ChatMessage, HumanMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver

from tests.checkpointers import IN_MEMORY
from tests.fuzz_replies import Once, agents, through
from tests.odd_replies import nested, odd_reply
from tests.scripted_chat import ANSWER, asked, picture
from tests.wire.models import PROVIDERS
from tests.wire.server import Server
from vtagent.graphs.storable import plain, storable, storable_reply
from vtagent.graphs.tool_calls import structured, with_answer, without_calls
from vtagent.graphs.zoom import create_zoom_agent

pytestmark = IN_MEMORY

SERDE = JsonPlusSerializer()


@pytest.fixture(scope="module")
def made() -> Iterator[Any]:
    with agents() as both:
        yield both


@pytest.mark.parametrize("which", ["graph", "middleware"])
@settings(max_examples=40)
@given(seed=st.integers(0, 2**32))
def test_after_any_reply_the_next_question_is_answered(made: Any, which: str, seed: int) -> None:
    agent, model, block = made[which]
    through(agent, model, block, Random(seed), str(seed))
    agent.checkpointer.delete_thread(str(seed))


@settings(max_examples=300)
@given(seed=st.integers(0, 2**32))
def test_any_reply_is_stored_and_read_back(seed: int) -> None:
    for bring in (structured, without_calls):
        reply = with_answer(bring(odd_reply(Random(seed))))
        again = SERDE.loads_typed(SERDE.dumps_typed(reply))
        assert again.text == reply.text
        assert len(again.tool_calls) == len(reply.tool_calls)
        assert len({call["id"] for call in (*reply.tool_calls, *reply.invalid_tool_calls)}) == len(
            [*reply.tool_calls, *reply.invalid_tool_calls]
        )
        assert storable_reply(reply) is reply  # clean once, clean for good


def test_a_clean_reply_is_kept_as_it_is() -> None:
    metadata = {"tokens": {"completion_ids": [1, 2, 3], "logprobs": [-0.5, 0.0]}, "model_name": "é", "n": {"a": None}}
    usage: Any = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3, "input_token_details": {"image": 1}}
    reply = AIMessage([{"type": "text", "text": "é"}], response_metadata=metadata, usage_metadata=usage, id="1")
    assert storable_reply(reply) is reply


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (2**63, "0x8000000000000000"),
        (-(2**63), -(2**63)),
        ("a\ud800b", "ab"),
        ({"\ud800": None}, {"": None}),
        ([1, 2**70], [1, hex(2**70)]),
        ((1, "\ud800"), [1, ""]),
        ({"a": float("inf")}, {"a": float("inf")}),
    ],
)
def test_what_cannot_be_stored_becomes_text(value: Any, stored: Any) -> None:
    assert plain(value) == stored


def test_deep_nesting_is_cut_and_everything_else_kept() -> None:
    assert "nested too deeply" in repr(plain({"a": nested(600), "b": 1}))
    assert plain({"a": nested(600), "b": 1})["b"] == 1
    shallow = {"a": nested(40)}
    assert plain(shallow) is shallow


@pytest.mark.parametrize(
    "usage",
    [
        {"input_tokens": -5, "output_tokens": 10**30, "total_tokens": 0},
        {"output_tokens": float("nan")},
        {"input_tokens": 1.0, "output_tokens": "many", "total_tokens": None},
        {"input_tokens": None, "input_token_details": None},
        {},
        "free",
    ],
)
def test_absurd_usage_is_counted_as_far_as_it_makes_sense(usage: Any) -> None:
    said = AIMessage.model_construct(content=ANSWER, usage_metadata=usage)
    agent = create_zoom_agent(Once(lines=[said]))
    counted = agent.invoke({"messages": [asked("?", picture())]})["usage"]
    for key in ("input_tokens", "output_tokens"):
        assert type(counted[key]) is int
        assert 0 <= counted[key] < 2**63


@pytest.mark.parametrize("said", [HumanMessage(ANSWER), ChatMessage(content=ANSWER, role="user")])
def test_a_server_that_answers_as_the_user_is_understood(said: Any) -> None:
    result = create_zoom_agent(Once(lines=[said])).invoke({"messages": [asked("?", picture())]})
    assert result["answer"] == "48.10"
    assert isinstance(result["messages"][-1], AIMessage)


def test_a_reference_that_the_model_made_up_is_no_view(tmp_path: Path) -> None:
    made_up = {"type": "image", "url": f"vtimg://sha256/{'0' * 64}"}
    said = AIMessage([made_up, {"type": "text", "text": ANSWER}])
    with SqliteSaver.from_conn_string(str(tmp_path / "threads.sqlite")) as saver:
        agent = create_zoom_agent(Once(lines=[said, ANSWER], resolves_images=False), checkpointer=saver)
        config: Any = {"configurable": {"thread_id": "1"}}
        result = agent.invoke({"messages": [asked("?", picture())]}, config)
        assert (result["answer"], len(result["views"])) == ("48.10", 1)
        assert "vtimg" not in repr(result["messages"][-1])
        assert agent.invoke({"messages": [("user", "Again?")]}, config)["answer"] == "48.10"


@pytest.mark.parametrize(
    "text", ["<answer>12</answer></tool_call>", "12</tool_call>", "<answer>1<tool_call>2</answer>"]
)
def test_left_over_tags_do_not_stay_in_an_answer(text: str) -> None:
    said = AIMessage(text, tool_calls=[])
    result = create_zoom_agent(Once(lines=[said])).invoke(
        {"messages": [asked("?", picture())]}, context={"max_zooms": 0, "max_turns": 1}
    )
    assert result["answer"] == "12"
    assert result["messages"][-1].response_metadata["answer"] == "12"


@pytest.mark.parametrize("name", PROVIDERS)
def test_the_clean_answer_stands_in_the_last_message_and_does_not_disturb_the_next_turn(name: str) -> None:
    provider = PROVIDERS[name]
    with Server(provider.format(), ["<think>Hm.</think><answer>48.10</answer>"] * 2) as server:
        agent = create_zoom_agent(provider.chat(server))
        first = agent.invoke({"messages": [asked("?", picture(320, 240))]})
        assert first["messages"][-1].response_metadata["answer"] == "48.10"
        second = agent.invoke({"messages": [*first["messages"], ("user", "Again?")]})
        assert second["answer"] == "48.10"
        assert not server.refused


def test_a_message_of_any_kind_can_be_made_storable() -> None:
    message = HumanMessage("a\ud800", additional_kwargs={"n": 2**80}, name="\ud800")
    clean = storable(message)
    assert (clean.content, clean.name, clean.additional_kwargs) == ("a", "", {"n": hex(2**80)})
    assert storable(clean) is clean
