"""Reads the turns of a finished run from its messages: what was sampled, its log-probabilities, and what it was shown.

The records in the replies (`vtagent.models.records`) are the only source, so you can train on any stored conversation
of a `ChatVLM`, also in another process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from langchain_core.messages import AIMessage, BaseMessage

from vtagent.errors import ModelError
from vtagent.models.chat import ChatVLM
from vtagent.models.engine import EngineImage, FinishReason
from vtagent.models.records import record_of
from vtagent.training.rl.rollout import Turn


def turns_of(messages: Sequence[BaseMessage], model: ChatVLM) -> tuple[Turn, ...]:
    """The turns of a conversation, one per reply.

    Args:
        messages: What a run left, or what a checkpointer kept.
        model: The model that replied, or another one with its processor. Its store holds the images, and its renderer
            makes the same pixels again that the replies were given.

    Returns:
        One turn per reply; none if the model never replied.

    Raises:
        ModelError: A reply without a record, or a prompt that does not continue all that was said before. No training
            sample can be made of such a conversation.
        ImageError: An image is no longer in the store.
    """
    turns: list[Turn] = []
    images: list[EngineImage] = []
    said = placeholders = after = 0
    for place, message in enumerate(messages):
        if not isinstance(message, AIMessage):
            continue
        start, turn = _recorded(message, len(turns) + 1)
        if start != said:
            raise ModelError(
                f"the prompt of reply {len(turns) + 1} does not begin with all that was said before; a node of the "
                "graph has rewritten the conversation, so its tokens cannot be trained on"
            )
        images += model.images(messages[after:place])
        placeholders += turn.prompt_ids.count(model.processor.image_token_id)
        if placeholders != len(images):
            raise ModelError(
                f"reply {len(turns) + 1} was shown {placeholders} images, but {len(images)} stand before it; a node of "
                "the graph has hidden or added some, so its tokens cannot be trained on"
            )
        turns.append(
            Turn(turn.prompt_ids, turn.completion_ids, turn.logprobs, turn.finish_reason, images=tuple(images))
        )
        said += len(turn.prompt_ids) + len(turn.completion_ids)
        after = place
    return tuple(turns)


def _recorded(reply: AIMessage, number: int) -> tuple[int, Turn]:
    """The number of ids before a reply's prompt, and its turn without images."""
    record = record_of(reply)
    if not record:
        raise ModelError(
            f"reply {number} has no record of its tokens: it is not by a ChatVLM, and cannot be trained on"
        )
    start, logprobs = record.get("start"), record.get("logprobs")
    reason: Any = reply.response_metadata.get("finish_reason")
    if not isinstance(start, int) or not isinstance(logprobs, list) or reason not in get_args(FinishReason):
        raise ModelError(
            f"the record of reply {number} was made by an earlier version of vtagent and lacks what training needs; "
            "run the conversation again"
        )
    return start, Turn(tuple(record["prompt_ids"]), tuple(record["completion_ids"]), tuple(logprobs), reason)
