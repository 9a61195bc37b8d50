"""A rollout: one run of the graph on one example, as rewards, the trainer and the rollout log see it."""

from __future__ import annotations

from dataclasses import dataclass, field

from langchain_core.messages import BaseMessage

from vtagent.graphs.budgets import Usage, ViewRecord, no_usage
from vtagent.models.engine import EngineImage, FinishReason
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
    def truncated(self) -> bool:
        """Whether a reply ended at its token limit, not by the model's own end-of-turn token."""
        return any(turn.finish_reason == "length" for turn in self.turns)
