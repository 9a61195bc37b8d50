"""Replies are parsed strictly, and parsing never raises, whatever the text."""

from __future__ import annotations

import doctest
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage
from langchain_core.messages.tool import invalid_tool_call, tool_call

from vtagent import protocol
from vtagent.models.streaming import to_message
from vtagent.protocol import (
    InvalidCall,
    ToolCall,
    format_tool_call,
    is_well_formed,
    parse_reply,
    reply_of,
    was_cut,
    with_structured_calls,
)

CALL = '<tool_call>{"name": "zoom_image", "arguments": {}}</tool_call>'


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(protocol).failed == 0


def test_an_answer_is_taken_out_of_its_tags() -> None:
    reply = parse_reply("<think> The last line. </think>\n<answer> 48.10 </answer>")
    assert (reply.think, reply.answer, reply.tool_calls, reply.rest) == ("The last line.", "48.10", (), "")


def test_a_call_may_be_pretty_printed() -> None:
    body = json.dumps({"name": "zoom_image", "arguments": {"region": [0, 0, 500, 500]}}, indent=4)
    assert parse_reply(f"<tool_call>\n{body}\n</tool_call>").tool_calls == (
        ToolCall("zoom_image", {"region": [0, 0, 500, 500]}),
    )


def test_several_calls_are_read_in_order() -> None:
    reply = parse_reply(format_tool_call("a", {"x": 1}) + format_tool_call("b", {}))
    assert [call.name for call in reply.tool_calls] == ["a", "b"]


def test_a_call_may_hold_the_closing_tag_in_a_string() -> None:
    reply = parse_reply(format_tool_call("say", {"text": "</tool_call>"}) + CALL)
    assert [call.name for call in reply.tool_calls] == ["say", "zoom_image"]
    assert not reply.errors


def test_calls_are_no_calls_inside_a_thought_or_an_answer() -> None:
    reply = parse_reply(f"<think>Should I say {CALL}?</think><answer>It printed {CALL}</answer>")
    assert reply.tool_calls == ()
    assert reply.answer == f"It printed {CALL}"


def test_a_template_may_open_the_thought() -> None:
    reply = parse_reply("It is large.</think><answer>7</answer>")
    assert (reply.think, reply.answer) == ("It is large.", "7")
    assert is_well_formed(reply)


def test_the_last_answer_counts() -> None:
    assert parse_reply("<answer>1</answer> no: <answer>2</answer>").answer == "2"


def test_what_is_outside_every_tag_is_the_rest() -> None:
    reply = parse_reply("<think>Hm.</think> It is 48.10. ")
    assert (reply.answer, reply.rest) == (None, "It is 48.10.")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>It says 12.</think><answer>12</answer>", "12"),
        ("<think>Hm.</think> It is 12. ", "It is 12."),
        ("12</answer>", "12"),
        ("<answer>12", "12"),
        ("<think>It may be 12, or", None),
        ("<think>It may be 12, or <answer>13", "13"),
        ("<answer><answer>12</answer></answer>", "12"),
        ("</answer>", None),
        ("<think>Hm.</think><answer> </answer>", None),
        ("", None),
    ],
)
def test_the_best_answer_has_no_tags(text: str, answer: str | None) -> None:
    assert parse_reply(text).best_answer == answer


@pytest.mark.parametrize(
    "told",
    [
        {"finish_reason": "length"},
        {"finish_reason": "MAX_TOKENS"},
        {"stop_reason": "max_tokens"},
        {"stopReason": "max_tokens"},
        {"done_reason": "length"},
        {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
    ],
)
def test_every_wire_tells_that_a_reply_was_cut(told: dict[str, Any]) -> None:
    assert was_cut(AIMessage("The total is", response_metadata=told))


@pytest.mark.parametrize("told", [{}, {"finish_reason": "stop"}, {"finish_reason": None, "incomplete_details": None}])
def test_a_reply_that_ended_was_not_cut(told: dict[str, Any]) -> None:
    assert not was_cut(AIMessage("The total is 48.10.", response_metadata=told))


def test_content_is_the_text_without_its_calls() -> None:
    assert parse_reply(f"<think>Small.</think>\n{CALL}\n").content == "<think>Small.</think>"


@pytest.mark.parametrize(
    ("inside", "says"),
    [
        ("zoom please", "not valid JSON"),
        ('{"name": "zoom_image", "arguments": {}', "not valid JSON"),
        ("{'name': 'zoom_image', 'arguments': {}}", "not valid JSON"),
        ('{"name": "zoom_image", "arguments": {"region": [NaN]}}', "NaN is not JSON"),
        ('{"name": "zoom_image", "arguments": {"image": 1e999}}', "too large"),
        ('{"name": "zoom_image", "arguments": {"image": 1' + "0" * 5000 + "}}", "too large"),
        ('{"name": "a", "name": "b", "arguments": {}}', "given twice"),
        ('{"arguments": {}}', 'no "name"'),
        ('{"name": 7, "arguments": {}}', 'no "name"'),
        ('{"name": "zoom_image"}', '"arguments" is missing'),
        ('{"name": "zoom_image", "arguments": "{}"}', '"arguments" is a string'),
        ('{"name": "zoom_image", "arguments": null}', '"arguments" is null'),
        ("[]", "is a list, not an object"),
        ("true", "is true or false, not an object"),
        ("", "not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"name": "\\ud800", "arguments": {}}', "broken Unicode"),
    ],
)
def test_a_broken_call_says_what_was_wrong_and_what_is_right(inside: str, says: str) -> None:
    reply = parse_reply(f"<tool_call>{inside}</tool_call>")
    assert reply.tool_calls == ()
    [error] = reply.errors
    assert says in error
    assert '{"name": "…", "arguments": {…}}' in error
    assert len(error) < 400


def test_a_call_that_was_cut_off_is_an_error() -> None:
    reply = parse_reply('<think>a</think><tool_call>{"name": "zoom_image", "argum')
    assert "not closed" in reply.errors[0]


def test_good_calls_survive_beside_a_broken_one() -> None:
    reply = parse_reply(f"<tool_call>oops</tool_call>{CALL}")
    assert len(reply.tool_calls) == len(reply.errors) == 1


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    parse_reply(text)


TAGS = [
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "<tool_call>",
    "</tool_call>",
    '{"name": "a", "arguments": {}}',
    "x",
]


@given(st.lists(st.sampled_from(TAGS), max_size=12))
def test_any_order_of_tags_is_read(parts: list[str]) -> None:
    reply = parse_reply("".join(parts))
    assert not reply.rest.count("<tool_call>")
    if is_well_formed(reply):
        assert bool(reply.answer) != bool(reply.tool_calls)


def test_reading_takes_time_linear_in_the_text() -> None:
    for hostile in (
        "<think>",
        "<answer>",
        "<tool_call>",
        "<tool_call>x</tool_call>",
        "<think>a</think>",
        "</think><answer>",
    ):
        start = time.perf_counter()
        parse_reply(hostile * 4_000)
        assert time.perf_counter() - start < 5, hostile


scalars = st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    scalars | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<>"), max_size=8)


@given(
    st.text("abc_", min_size=1),
    st.dictionaries(words, values.filter(lambda v: "tool_call>" not in repr(v)), max_size=3),
)
def test_a_written_call_reads_back_as_itself(name: str, arguments: dict[str, object]) -> None:
    assert parse_reply(format_tool_call(name, arguments)).tool_calls == (ToolCall(name, arguments),)


@pytest.mark.parametrize(
    "good",
    [
        "<think>Large.</think><answer>7</answer>",
        "<think>Large.</think>\n\n<answer>7</answer>\n",
        f"<think>Small.</think>{CALL}",
        f"<think>Two.</think>{CALL}\n{CALL}",
        f"Small.</think>{CALL}",
    ],
)
def test_well_formed_replies(good: str) -> None:
    assert is_well_formed(parse_reply(good))


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "7",
        "<answer>7</answer>",
        "<think></think><answer>7</answer>",
        "<think>a</think><answer></answer>",
        "<think>a</think><think>b</think><answer>7</answer>",
        "<think>a</think>7",
        "<think>a</think>so <answer>7</answer>",
        "<think>a</think><answer>7</answer><answer>8</answer>",
        "<think>a</think><answer>7</answer></answer>",
        "<answer>7</answer><think>a</think>",
        f"<think>a</think>{CALL}<answer>7</answer>",
        f"<think>a</think><answer>{CALL}",
        f"{CALL}<think>a</think>",
        "<think>a</think><tool_call>{}</tool_call>",
        f"<think>a</think>{CALL}<tool_call>{{</tool_call>",
        "<think>a<answer>7</answer>",
    ],
)
def test_ill_formed_replies(bad: str) -> None:
    assert not is_well_formed(parse_reply(bad))


def test_a_message_is_judged_with_its_structured_calls() -> None:
    call = tool_call(name="zoom_image", args={}, id="1")
    broken = invalid_tool_call(name=None, args="{", id="2", error="no JSON")
    assert is_well_formed(reply_of(AIMessage("<think>a</think>", tool_calls=[call])))
    assert not is_well_formed(reply_of(AIMessage("<think>a</think>", tool_calls=[call], invalid_tool_calls=[broken])))
    assert not is_well_formed(reply_of(AIMessage("<think>a</think><answer>7</answer>", tool_calls=[call])))


def test_a_call_is_either_valid_or_explained() -> None:
    assert isinstance(protocol.parse_call("{}"), InvalidCall)
    assert protocol.parse_call('{"name": " zoom_image ", "arguments": {}}') == ToolCall("zoom_image", {})


STRICT = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec=None)), inner, max_size=3),
    max_leaves=8,
)


@given(st.text(st.characters(codec=None)), st.dictionaries(st.text(), STRICT, max_size=3))
def test_a_call_that_a_server_has_parsed_is_judged_as_its_text_would_be(name: str, arguments: dict[str, Any]) -> None:
    text = json.dumps({"name": name, "arguments": arguments})
    assert protocol.check_call(name, arguments) == protocol.parse_call(text)


@pytest.mark.parametrize("depth", [protocol.DEEPEST - 2, protocol.DEEPEST - 1, protocol.DEEPEST, 5000])
def test_a_parsed_call_may_be_nested_as_deeply_as_a_written_one(depth: int) -> None:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    assert isinstance(protocol.check_call("zoom_image", value), ToolCall) is (depth < protocol.DEEPEST)


@pytest.mark.parametrize("value", [(1, 2), {1: 2}, {"a": object()}, 7, None, {"a": 10**18}, {"a": -(10**17)}])
def test_arguments_that_are_no_plain_json_are_judged_by_their_json(value: Any) -> None:
    text = json.dumps({"name": "f", "arguments": value}, default=str)
    assert type(protocol.check_call("f", value)) is type(protocol.parse_call(text))


@pytest.mark.parametrize(
    "text", ["<think>a</think>", f"<think>a</think>{CALL}", "a <tool_call>b", f"<think>{CALL}</think>"]
)
def test_our_model_and_a_servers_text_become_the_same_message(text: str) -> None:
    ours, theirs = to_message(text), with_structured_calls(AIMessage(text))
    assert ours.content == theirs.content
    for mine, other in zip(
        [*ours.tool_calls, *ours.invalid_tool_calls], [*theirs.tool_calls, *theirs.invalid_tool_calls], strict=True
    ):
        assert {**mine, "id": ""} == {**other, "id": ""}
