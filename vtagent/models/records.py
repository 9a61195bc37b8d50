"""The record of a reply: its token ids and log-probabilities, kept in `response_metadata["tokens"]` as JSON.

The next prompt repeats the recorded ids, so a reply is never tokenised again, and training reads what was sampled from
any stored conversation. A record is valid in the conversation it was made in: `prefix` is a hash of everything before
the reply, and `reply` is a hash of the reply itself. A conversation that was edited no longer matches and is rendered
again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage

KEY = "tokens"


def prefix_hashes(messages: Sequence[BaseMessage], setting: str) -> list[str]:
    """Hash everything before each message, and everything before a message that would come next.

    Args:
        messages: The conversation.
        setting: What else decides the prompt: the codec's fingerprint and the tools.

    Returns:
        One hash per message, and one more for the next message.
    """
    hashes = [_hash(setting)]
    for message in messages:
        hashes.append(_hash(hashes[-1], _essence(message), record_of(message).get("completion_ids")))
    return hashes


def known_prefix(messages: Sequence[BaseMessage], hashes: Sequence[str]) -> tuple[list[int], int]:
    """The ids of the conversation up to its last reply that has a valid record.

    Args:
        messages: The conversation.
        hashes: The hashes of these messages, from `prefix_hashes`.

    Returns:
        The ids, collapsed, and the number of messages they cover; ([], 0) if no record is valid.
    """
    ids: list[int] = []
    covered = 0
    for place, message in enumerate(messages):
        record = record_of(message)
        if record and record["prefix"] == hashes[place] and record["reply"] == reply_hash(message):
            ids += [*record["prompt_ids"], *record["completion_ids"]]
            covered = place + 1
    return ids, covered


def make_record(
    message: AIMessage,
    *,
    start: int,
    prompt_ids: Sequence[int],
    completion_ids: Sequence[int],
    logprobs: Sequence[float],
    prefix: str,
) -> dict[str, Any]:
    """Make the record of a reply.

    Args:
        message: The reply.
        start: Number of recorded ids before `prompt_ids`, those of all earlier turns; 0 if the whole prompt was
            rendered for this reply.
        prompt_ids: The ids of the prompt after the recorded turns, collapsed.
        completion_ids: The sampled ids, including the end-of-turn token.
        logprobs: One per sampled token.
        prefix: The hash for this reply, from `prefix_hashes`.

    Returns:
        The record, as JSON values.
    """
    return {
        "start": start,
        "prompt_ids": list(prompt_ids),
        "completion_ids": list(completion_ids),
        "logprobs": list(logprobs),
        "prefix": prefix,
        "reply": reply_hash(message),
    }


def record_of(message: BaseMessage) -> Mapping[str, Any]:
    """The record of a message; empty if it has none, or one that this package did not make."""
    found = message.response_metadata.get(KEY) if isinstance(message, AIMessage) else None
    if not isinstance(found, Mapping):
        return {}
    lists = all(isinstance(found.get(name), list) for name in ("prompt_ids", "completion_ids"))
    names = all(isinstance(found.get(name), str) for name in ("prefix", "reply"))
    return found if lists and names else {}


def reply_hash(message: BaseMessage) -> str:
    """Hash what a message says: its text, its images and its calls, in whatever form they are stored."""
    return _hash(_essence(message))


def _essence(message: BaseMessage) -> list[Any]:
    """The role, texts, image URLs and calls of a message."""
    blocks = [message.content] if isinstance(message.content, str) else message.content
    said: list[str] = []
    for block in blocks:
        if isinstance(block, str):
            said.append(block)
        elif block.get("type") == "text":
            said.append(str(block.get("text", "")))
        elif block.get("type") == "image":
            said.append(f"\x00{block.get('url')}")
    calls = [[call["name"], call["args"]] for call in message.tool_calls] if isinstance(message, AIMessage) else []
    return [message.type.removesuffix("MessageChunk").lower(), [part for part in said if part], calls]


def _hash(*parts: Any) -> str:
    """32 hexadecimal digits of the sha256 of JSON values."""
    return sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]
