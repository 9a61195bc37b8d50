"""Replies that no checkpointer would store and no graph expects: made at random, from a seed."""

from __future__ import annotations

from random import Random
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage, SystemMessage

from vtagent.protocol import format_tool_call

KEYS = ["region", "image", "name", "arguments", "\ud800", "", "x", "self", "messages", "0"]
TAGS = ["<think>", "</think>", "<answer>", "</answer>", "<tool_call>", "</tool_call>"]
WORDS = [
    "48.10",
    "\ud800",
    "\udfff\ud800",
    "\x00",
    "é",
    "🙂",
    "",
    " ",
    "{",
    '"',
    "vtimg://sha256/" + "0" * 64,
    "\n",
    "}",
]
NUMBERS: list[Any] = [
    *(0, 1, -1, 500, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**40, 10**5000),
    *(0.5, 1e308, float("nan"), float("inf"), -float("inf")),
]


def nested(depth: int) -> Any:
    """Lists in lists, `depth` deep."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def odd_value(random: Random, levels: int = 3) -> Any:
    """Any value: JSON of any size and depth, and objects that are none."""
    kinds: list[Any] = [
        lambda: random.choice(NUMBERS),
        lambda: random.choice(NUMBERS),
        lambda: odd_text(random),
        lambda: random.choice([None, True, False]),
        lambda: nested(random.choice([40, 300, 600, 2000])),
        lambda: random.choice([b"\xff", object(), {1, 2}, (1, 2**70), AIMessage("x")]),
        lambda: [odd_value(random, levels - 1) for _ in range(random.randrange(4))],
        lambda: {random.choice(KEYS): odd_value(random, levels - 1) for _ in range(random.randrange(4))},
        lambda: {(1, 2): odd_value(random, levels - 1), 7: 1, None: 2},
    ]
    return random.choice(kinds if levels else kinds[:4])()


def odd_text(random: Random) -> str:
    """Tags, calls and words in any order."""
    parts: list[Any] = [random.choice([*TAGS, *WORDS, odd_call]) for _ in range(random.randrange(6))]
    return "".join(part if isinstance(part, str) else part(random) for part in parts)


def odd_call(random: Random) -> str:
    """A call as text, good or bad."""
    deep = "[" * 600 + "]" * 600
    return random.choice(
        [
            format_tool_call("zoom_image", {}),
            format_tool_call("zoom_image", {"region": [random.randrange(1100) for _ in range(4)]}),
            format_tool_call("\ud800", {"\ud800": "\ud800"}),
            f'<tool_call>{{"name": "zoom_image", "arguments": {{"image": {10**30}}}}}</tool_call>',
            f'<tool_call>{{"name": "zoom_image", "arguments": {{"image": {deep}}}}}</tool_call>',
            f"<tool_call>{deep}</tool_call>",
            '<tool_call>{"name": "other", "arguments": {}}</tool_call>',
        ]
    )


def odd_block(random: Random) -> Any:
    """A block of content."""
    return random.choice(
        [
            odd_text(random),
            {"type": "text", "text": odd_text(random)},
            {"type": "text"},
            {"type": "text", "text": odd_value(random)},
            {"type": "image", "url": "vtimg://sha256/" + "0" * 64},
            {"type": "image", "url": "vtimg://nonsense?scale=9"},
            {"type": "image_url", "image_url": {"url": "vtimg://sha256/" + "f" * 64}},
            {"type": "image_url", "image_url": odd_value(random)},
            {"type": "reasoning", "reasoning": odd_text(random), "extras": odd_value(random)},
            {"type": "tool_use", "id": odd_text(random), "name": "zoom_image", "input": odd_value(random)},
            {"type": odd_value(random), "value": odd_value(random)},
            {random.choice(KEYS): odd_value(random)},
        ]
    )


def odd_reply(random: Random) -> BaseMessage:
    """A reply of any role, as a server could send it, with nothing checked."""
    content: Any = odd_text(random)
    if random.random() < 0.4:
        content = [odd_block(random) for _ in range(random.randrange(4))]
    fields: dict[str, Any] = {"content": content, "additional_kwargs": {}, "response_metadata": {}}
    if random.random() < 0.1:
        kind: Any
        kind, role = random.choice([(HumanMessage, {}), (SystemMessage, {}), (ChatMessage, {"role": "user"})])
        reply: BaseMessage = kind.model_construct(**fields, **role)
        return reply
    if random.random() < 0.4:
        fields["tool_calls"] = [_call(random) for _ in range(random.randrange(3))]
    if random.random() < 0.2:
        fields["invalid_tool_calls"] = [
            {
                "type": "invalid_tool_call",
                "name": _word(random),
                "args": _word(random),
                "id": _id(random),
                "error": None,
            }
            for _ in range(random.randrange(3))
        ]
    for name in ("additional_kwargs", "response_metadata"):
        if random.random() < 0.3:
            fields[name] = {random.choice(KEYS): odd_value(random), "refusal": _word(random)}
    if random.random() < 0.3:
        fields["usage_metadata"] = _usage(random)
    if random.random() < 0.2:
        fields["id"] = _id(random)
    if random.random() < 0.2:
        fields["name"] = _word(random)
    return AIMessage.model_construct(**fields)


def _call(random: Random) -> dict[str, Any]:
    name = random.choice(["zoom_image", "zoom_image", "other", "\ud800", "", None])
    args: Any = {random.choice(KEYS): odd_value(random) for _ in range(random.randrange(3))}
    return {"type": "tool_call", "name": name, "args": args, "id": _id(random)}


def _usage(random: Random) -> Any:
    counts: list[Any] = [*NUMBERS, None, "many", {}, True]
    usage: dict[str, Any] = {
        key: random.choice(counts)
        for key in ("input_tokens", "output_tokens", "total_tokens", "\ud800")
        if random.random() < 0.8
    }
    if random.random() < 0.5:
        usage["input_token_details"] = random.choice([None, {"image": random.choice(counts)}, odd_value(random)])
    return usage


def _id(random: Random) -> Any:
    return random.choice([None, "", "1", "1", "\ud800", odd_text(random)])


def _word(random: Random) -> Any:
    return random.choice([None, "", "zoom_image", odd_text(random)])
