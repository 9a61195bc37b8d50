"""Beside each reply its token ids are kept, so that the next prompt repeats them and never re-tokenises what was said.

A record is JSON in `response_metadata["tokens"]`. It holds for the conversation it was made in: `prefix` is a hash of
everything before the reply, and `reply` one of the reply itself; a history that was edited no longer matches and is
rendered afresh.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage

KEY = "tokens"


def prefix_hashes(messages: Sequence[BaseMessage], setting: str) -> list[str]:
    """For each message, the hash of all that stands before it, and one more for what comes after the last.

    Args:
        setting: what else decides the prompt (the codec's fingerprint, the tools).
    """
    hashes = [_hash(setting)]
    for message in messages:
        hashes.append(_hash(hashes[-1], _essence(message), _record(message).get("completion_ids")))
    return hashes


def known_prefix(messages: Sequence[BaseMessage], hashes: Sequence[str]) -> tuple[list[int], int]:
    """The ids of the conversation up to its last reply that has a valid record.

    Returns:
        The ids, collapsed, and the number of messages they cover; ([], 0) if no record is valid.
    """
    ids: list[int] = []
    covered = 0
    for place, message in enumerate(messages):
        record = _record(message)
        if record and record["prefix"] == hashes[place] and record["reply"] == reply_hash(message):
            ids += [*record["prompt_ids"], *record["completion_ids"]]
            covered = place + 1
    return ids, covered


def make_record(
    message: AIMessage,
    *,
    prompt_ids: Sequence[int],
    completion_ids: Sequence[int],
    logprobs: Sequence[float],
    prefix: str,
) -> dict[str, Any]:
    """The record of a reply.

    Args:
        prompt_ids: What the prompt has beyond the recorded turns before, collapsed.
        completion_ids: What was sampled, the end-of-turn token included.
        logprobs: One per sampled token.
        prefix: Out of `prefix_hashes`.
    """
    return {
        "prompt_ids": list(prompt_ids),
        "completion_ids": list(completion_ids),
        "logprobs": list(logprobs),
        "prefix": prefix,
        "reply": reply_hash(message),
    }


def reply_hash(message: BaseMessage) -> str:
    """A hash of what a message says: its text, its images and its calls, however they are written down."""
    return _hash(_essence(message))


def _record(message: BaseMessage) -> Mapping[str, Any]:
    """A message's record, or an empty one where there is none or it is not of our making."""
    found = message.response_metadata.get(KEY) if isinstance(message, AIMessage) else None
    if not isinstance(found, Mapping):
        return {}
    lists = all(isinstance(found.get(name), list) for name in ("prompt_ids", "completion_ids"))
    names = all(isinstance(found.get(name), str) for name in ("prefix", "reply"))
    return found if lists and names else {}


def _essence(message: BaseMessage) -> list[Any]:
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
    return sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]
