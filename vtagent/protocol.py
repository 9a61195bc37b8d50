"""The tags of a reply: `<think>`, `<answer>` and `<tool_call>`. Parsing is strict, accepts any text and never raises.

A reply is scanned from left to right. The inside of a tag belongs to that tag alone: a call inside `<think>` or
`<answer>` is not a call.

    <think>The total is too small to read.</think>
    <tool_call>{"name": "zoom_image", "arguments": {"region": [500, 700, 1000, 900]}}</tool_call>

    <think>The last line says 48.10.</think><answer>48.10</answer>

A template may open `<think>` itself at the end of the prompt; the reply then starts inside it and has only `</think>`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.tool import invalid_tool_call, tool_call

from vtagent.strict_json import DECODER, is_strict, nested_beyond

THINK = ("<think>", "</think>")
ANSWER = ("<answer>", "</answer>")
TOOL_CALL = ("<tool_call>", "</tool_call>")
_TAGS = (*THINK, *ANSWER, *TOOL_CALL)
_LONGEST = max(map(len, _TAGS))

DEEPEST = 32
"""Deepest nesting of lists and objects in a call: more than calls need, and far below the limits of libraries."""

_ENDINGS = ("finish_reason", "stop_reason", "stopReason", "done_reason")
"""Where a reply's metadata says why it ended: OpenAI and Gemini, Anthropic, Bedrock, Ollama."""
_CUT = ("length", "max_tokens", "max_output_tokens")
"""What it says there of a reply that was cut, in any case."""

_FORM = f'Write {TOOL_CALL[0]}{{"name": "…", "arguments": {{…}}}}{TOOL_CALL[1]} with strict JSON inside.'
_TOO_DEEP = f"The JSON inside {TOOL_CALL[0]} is nested too deeply. {_FORM}"


@dataclass(frozen=True)
class ToolCall:
    """One valid call."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class InvalidCall:
    """One call that cannot be run: the text between the tags, and the error message for the model."""

    text: str
    error: str


@dataclass(frozen=True)
class Reply:
    """One parsed reply of the model."""

    text: str
    """The whole reply, unchanged."""
    think: str | None
    """The reasoning, stripped; None without a (closed) `<think>`."""
    answer: str | None
    """The text of the last closed `<answer>`, stripped; None without one."""
    tool_calls: tuple[ToolCall, ...]
    """The valid calls, in order."""
    invalid_calls: tuple[InvalidCall, ...]
    """The calls that cannot be parsed or validated, in order."""
    rest: str
    """The text outside every tag, stripped: the best guess at an answer that was not tagged."""
    content: str
    """The text without its `<tool_call>` blocks, right-stripped: what a message holds beside structured calls."""

    @property
    def best_answer(self) -> str | None:
        """The text of `<answer>`, else the text outside every tag; left-over tags are removed.

        Example:
            >>> [parse_reply(text).best_answer for text in ("<answer>12</answer>", "12</answer>", "</answer>")]
            ['12', '12', None]
        """
        return without_tags(self.answer or "") or without_tags(self.rest) or None

    @property
    def errors(self) -> tuple[str, ...]:
        """The error message for the model about each invalid call."""
        return tuple(call.error for call in self.invalid_calls)


def parse_reply(text: str) -> Reply:
    """Parses a reply. Any text is accepted, and the time is linear in its length.

    Args:
        text: The model's text, without special tokens such as `<|im_end|>`.

    Example:
        >>> reply = parse_reply('<think>Blurred.</think><tool_call>{"name": "zoom_image", "arguments": {}}</tool_call>')
        >>> reply.think, reply.tool_calls
        ('Blurred.', (ToolCall(name='zoom_image', arguments={}),))
        >>> parse_reply("<tool_call>zoom please</tool_call>").errors[0][:44]
        'The text inside <tool_call> is not valid JSO'
    """
    think: list[str] = []
    answers: list[str] = []
    calls: list[ToolCall] = []
    invalid: list[InvalidCall] = []
    rest: list[str] = []
    content: list[str] = []
    at = 0
    opened = text.find(THINK[0])
    closed = text.find(THINK[1])
    if closed >= 0 and (opened < 0 or closed < opened):  # the template opened <think> in the prompt
        think.append(text[:closed].strip())
        at = closed + len(THINK[1])
        content.append(text[:at])
    finder = _Finder(text)
    in_thought = False  # after a <think> that is never closed: half a thought is not an answer
    while (found := finder.next_tag(at)) is not None:
        start, (opening, closing) = found
        if not in_thought:
            rest.append(text[at:start])
        in_thought = False
        content.append(text[at:start])
        inside = start + len(opening)
        if (opening, closing) == TOOL_CALL:
            at = _read_call(text, inside, finder, calls, invalid)
            continue
        end = finder.find(closing, inside)
        if end < 0:  # never closed: skip the tag alone, and parse the text after it
            at = inside
            content.append(opening)
            in_thought = opening == THINK[0]
            continue
        (think if opening == THINK[0] else answers).append(text[inside:end].strip())
        at = end + len(closing)
        content.append(text[start:at])
    if not in_thought:
        rest.append(text[at:])
    content.append(text[at:])
    return Reply(
        text=text,
        think="\n".join(think) if think else None,
        answer=answers[-1] if answers else None,
        tool_calls=tuple(calls),
        invalid_calls=tuple(invalid),
        rest="".join(rest).strip(),
        content="".join(content).rstrip(),
    )


def without_tags(text: str) -> str:
    """The text without the tags of this protocol, stripped. Tags that meet when another is removed go, too.

    Example:
        >>> without_tags("</tool_call> 48.<ans<think>wer>10</answer>")
        '48.10'
    """
    if not any(tag in text for tag in _TAGS):
        return text.strip()
    kept: list[str] = []  # characters, so that a tag is cut off at the end: the time stays linear
    for character in text:
        kept.append(character)
        if character == ">":
            end = "".join(kept[-_LONGEST:])
            if (tag := next((tag for tag in _TAGS if end.endswith(tag)), None)) is not None:
                del kept[-len(tag) :]
    return "".join(kept).strip()


def with_structured_calls(message: AIMessage) -> AIMessage:
    """The message with the calls in its text moved to its own fields; the message itself if its text has none.

    A call that does not parse or validate becomes one of `invalid_tool_calls`.

    Example:
        >>> message = with_structured_calls(AIMessage('<tool_call>{"name": "zoom_image", "arguments": {}}</tool_call>'))
        >>> message.content, message.tool_calls[0]["name"]
        ('', 'zoom_image')
    """
    if TOOL_CALL[0] not in message.text:
        return message
    reply = parse_reply(message.text)
    valid = [tool_call(name=call.name, args=call.arguments, id=new_call_id()) for call in reply.tool_calls]
    invalid = [
        invalid_tool_call(name=None, args=call.text, id=new_call_id(), error=call.error) for call in reply.invalid_calls
    ]
    if not valid and not invalid:
        return message
    return message.model_copy(update={"content": reply.content, "tool_calls": valid, "invalid_tool_calls": invalid})


def was_cut(message: BaseMessage) -> bool:
    """Whether a reply ended at its limit of tokens, by what any of LangChain's integrations tell of its ending.

    Example:
        >>> was_cut(AIMessage("<think>The total is", response_metadata={"finish_reason": "length"}))
        True
    """
    told = message.response_metadata
    incomplete = told.get("incomplete_details")  # OpenAI's Responses
    reason = incomplete.get("reason") if isinstance(incomplete, Mapping) else None
    endings = (reason, *(told.get(name) for name in _ENDINGS))
    return any(isinstance(ending, str) and ending.lower() in _CUT for ending in endings)


def new_call_id() -> str:
    """An id for a call that has none."""
    return f"call_{uuid.uuid4().hex[:24]}"


def reply_of(message: AIMessage) -> Reply:
    """Returns the reply that a chat message carries, with its structured calls written back as text.

    Example:
        >>> message = AIMessage("<think>Blurred.</think>", tool_calls=[{"name": "zoom_image", "args": {}, "id": "1"}])
        >>> is_well_formed(reply_of(message))
        True
    """
    written = [format_tool_call(call["name"], call["args"]) for call in message.tool_calls]
    written += [f"{TOOL_CALL[0]}{call['args'] or ''}{TOOL_CALL[1]}" for call in message.invalid_tool_calls]
    return parse_reply("\n".join([message.text, *written]))


def is_well_formed(reply: Reply) -> bool:
    """Returns whether a reply keeps the format (the condition of R_fmt in VisionThink, arXiv:2507.13348, section 3).

    One `<think>` with text comes first. Then comes either one `<answer>` with text, or one or more valid calls and no
    invalid one. Only white space stands outside the tags.
    """
    if not reply.think or reply.rest or reply.invalid_calls:
        return False
    text = reply.text.lstrip()
    thinks_once = text.count(THINK[1]) == 1 and text.count(THINK[0]) == (1 if text.startswith(THINK[0]) else 0)
    after = reply.content.split(THINK[1], 1)[-1]
    if reply.tool_calls:
        return thinks_once and not after
    return thinks_once and bool(reply.answer) and after.count(ANSWER[0]) == after.count(ANSWER[1]) == 1


def format_tool_call(name: str, arguments: Mapping[str, Any]) -> str:
    """Writes a call as the model does: `parse_reply(format_tool_call(n, a)).tool_calls == (ToolCall(n, a),)`."""
    body = json.dumps({"name": name, "arguments": dict(arguments)}, ensure_ascii=False)
    return f"{TOOL_CALL[0]}\n{body}\n{TOOL_CALL[1]}"


def parse_call(text: str) -> ToolCall | InvalidCall:
    """Parses the inside of one `<tool_call>`: strict JSON with a name and an object of arguments."""
    try:
        value = DECODER.decode(text.strip())
        text.encode()
    except RecursionError:
        return InvalidCall(text, _TOO_DEEP)
    except UnicodeEncodeError:
        return InvalidCall(_printable(text), f"The JSON inside {TOOL_CALL[0]} holds broken Unicode. {_FORM}")
    except ValueError as error:
        return InvalidCall(text, f"The text inside {TOOL_CALL[0]} is not valid JSON ({error}). {_FORM}")
    return InvalidCall(text, _TOO_DEEP) if nested_beyond(value, DEEPEST) else _validated(value, text)


def check_call(name: str, arguments: object) -> ToolCall | InvalidCall:
    """Validates a call that a server has already parsed, by the rules of `parse_call`.

    Args:
        name: The tool's name.
        arguments: The arguments, any value.
    """
    if name.strip() and isinstance(arguments, dict) and is_strict(name) and is_strict(arguments, DEEPEST - 1):
        return ToolCall(name.strip(), arguments)
    # Everything else is written as JSON and read again, so that the error is the same as for a call in text.
    if nested_beyond(arguments, DEEPEST - 1):
        return InvalidCall("", _TOO_DEEP)  # JSON nested a thousand deep cannot even be written
    try:
        written = json.dumps({"name": name, "arguments": arguments}, default=str)
    except (TypeError, ValueError) as error:  # keys that are no text; integers of more digits than Python writes
        return InvalidCall("", f"The arguments cannot be written as JSON ({error}). {_FORM}")
    return parse_call(written)


def _validated(value: object, text: str) -> ToolCall | InvalidCall:
    """Returns the call that decoded JSON stands for; `text` is what was decoded."""
    if not isinstance(value, dict):
        return InvalidCall(text, f"The JSON inside {TOOL_CALL[0]} is {_kind(value)}, not an object. {_FORM}")
    name, arguments = value.get("name"), value.get("arguments")
    if not isinstance(name, str) or not name.strip():
        return InvalidCall(text, f'The call has no "name" (a string). {_FORM}')
    if not isinstance(arguments, dict):
        said = f"is {_kind(arguments)}" if "arguments" in value else "is missing"
        return InvalidCall(
            text, f'"arguments" {said}; it must be an object, {{}} when there is nothing to say. {_FORM}'
        )
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return InvalidCall(text, f"The JSON inside {TOOL_CALL[0]} holds broken Unicode. {_FORM}")
    return ToolCall(name.strip(), arguments)


def _read_call(text: str, inside: int, finder: _Finder, calls: list[ToolCall], invalid: list[InvalidCall]) -> int:
    """Parses the call whose inside starts at `inside`, adds it to one of the lists, and returns where to go on."""
    closing = TOOL_CALL[1]
    end = finder.find(closing, inside)
    if end < 0:
        cut = text[inside:].strip()
        invalid.append(InvalidCall(cut, f"A {TOOL_CALL[0]} is not closed by {closing}. {_FORM}"))
        return len(text)
    call = parse_call(text[inside:end])
    # A JSON string may hold the closing tag; the call then ends at a later one. Try only once, to stay linear.
    if isinstance(call, InvalidCall) and (later := finder.find(closing, end + 1)) >= 0:
        longer = text[inside:later]
        if TOOL_CALL[0] not in longer[end - inside :] and isinstance(again := parse_call(longer), ToolCall):
            call, end = again, later
    if isinstance(call, ToolCall):
        calls.append(call)
    else:
        invalid.append(call)
    return end + len(closing)


class _Finder:
    """Finds tags and remembers the next place of each, so that many unclosed tags do not make parsing quadratic."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._next: dict[str, int] = {}

    def find(self, tag: str, at: int) -> int:
        """Returns the first place of `tag` at or after `at`, or -1. For one tag, `at` must never decrease."""
        known = self._next.get(tag)
        if known is None or -1 < known < at:
            known = self._next[tag] = self._text.find(tag, at)
        return known

    def next_tag(self, at: int) -> tuple[int, tuple[str, str]] | None:
        """Returns the place and the tag of the nearest opening tag at or after `at`."""
        found = [(place, tag) for tag in (THINK, ANSWER, TOOL_CALL) if (place := self.find(tag[0], at)) >= 0]
        return min(found) if found else None


def _printable(text: str) -> str:
    return text.encode(errors="replace").decode()


def _kind(value: object) -> Literal["null", "true or false", "a number", "a string", "a list", "an object"]:
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "a list"
    return "an object"
