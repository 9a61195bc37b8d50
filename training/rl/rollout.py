"""A rollout: one run of the graph on one example, as rewards, the trainer and the rollout log see it.

`turns_of` reads its turns from its messages. The records in the replies (`vtagent.models.records`) are the only source,
so you can train on any stored conversation of a `ChatVLM`, also in another process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from langchain_core.messages import AIMessage, BaseMessage

from vtagent.errors import ModelError
from vtagent.graphs.budgets import Usage, ViewRecord, no_usage
from vtagent.models.chat import ChatVLM
from vtagent.models.engine import EngineImage, FinishReason
from vtagent.models.records import record_of
from vtagent.training.data import Example


@dataclass(frozen=True)
class Turn:
    """One reply of the model with what was new before it."""

    prompt_ids: tuple[int, ...]
    """The ids that are new before this reply, collapsed: one placeholder per image. In the first turn this is the whole
    prompt, later the template's text for what the tools returned."""
    completion_ids: tuple[int, ...]
    """The sampled ids, including the end-of-turn token if the model said it."""
    logprobs: tuple[float, ...]
    """One per sampled token: log-softmax of the logits divided by the temperature."""
    finish_reason: FinishReason
    images: tuple[EngineImage, ...] = field(default=(), repr=False)
    """All images that the prompt of this reply shows, including those of earlier turns, in the order of their
    placeholders."""


@dataclass(frozen=True)
class Rollout:
    """One run. If it failed, only `example`, `seconds` and `error` have a meaning."""

    example: Example
    answer: str | None = None
    zooms: int = 0
    """Views granted."""
    well_formed: bool = False
    """Every reply follows the protocol (`vtagent.protocol.is_well_formed`), and no call was a mistake. A call is a
    mistake if it names no tool, or if the zoom tool or the budgets of the run refused it."""
    stop: str | None = None
    """The graph's `stop`: the budget that forced the answer, if any."""
    usage: Usage = field(default_factory=no_usage)
    views: tuple[ViewRecord, ...] = ()
    messages: tuple[BaseMessage, ...] = ()
    """The conversation that the run left; images are references."""
    turns: tuple[Turn, ...] = ()
    seconds: float = 0.0
    """From the start of the run to its end, with the others of its batch in progress."""
    error: str | None = None
    """Why the run failed. A failed run is not scored."""

    @property
    def shown_of_full(self) -> float:
        """Visual tokens of all views that were shown, divided by those of full resolution at once; 0 without images."""
        full = self.usage["full_visual_tokens"]
        return self.usage["visual_tokens"] / full if full else 0.0

    @property
    def truncated(self) -> bool:
        """Whether a reply ended at its token limit, not by the model's own end-of-turn token."""
        return any(turn.finish_reason == "length" for turn in self.turns)


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
