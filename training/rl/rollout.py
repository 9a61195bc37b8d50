"""A rollout: one run of the compiled graph on one example, as rewards, the trainer and the rollout log see it."""

from __future__ import annotations

from dataclasses import dataclass, field

from langchain_core.messages import BaseMessage

from vtagent.graphs.budgets import Usage, ViewRecord, no_usage
from vtagent.models.engine import EngineImage, FinishReason
from vtagent.training.data import Example


@dataclass(frozen=True)
class Turn:
    """One reply of the model, exactly as it was sampled."""

    prompt_ids: tuple[int, ...]
    """The ids that are new before this reply: for the first turn the whole prompt, later the template's suffix for
    what the tools returned. Collapsed: one placeholder per image."""
    completion_ids: tuple[int, ...]
    """What was sampled, the end-of-turn token included where the model said it."""
    logprobs: tuple[float, ...]
    """One per sampled token: log-softmax of the logits divided by the temperature."""
    finish_reason: FinishReason
    images: tuple[EngineImage, ...] = field(default=(), repr=False)
    """All that the prompt of this reply shows, those of earlier turns included, in the order of their placeholders."""


@dataclass(frozen=True)
class Rollout:
    """One run. Of a run that failed, only `example`, `seconds` and `error` say anything."""

    example: Example
    answer: str | None = None
    zooms: int = 0
    """Views granted."""
    well_formed: bool = False
    """Every reply keeps to the protocol (`vtagent.protocol.is_well_formed`), and no call was a mistake: one that names
    no tool, or that the zoom tool or the run's budgets refused."""
    stop: str | None = None
    """The graph's `stop`: which budget forced the answer, if any."""
    usage: Usage = field(default_factory=no_usage)
    views: tuple[ViewRecord, ...] = ()
    messages: tuple[BaseMessage, ...] = ()
    """The conversation that the run left; images are references."""
    turns: tuple[Turn, ...] = ()
    seconds: float = 0.0
    """From the run's start to its end, with the others of its batch under way."""
    error: str | None = None
    """Why the run failed: it cannot be scored."""

    @property
    def truncated(self) -> bool:
        """Whether a reply ended at its token limit rather than by the model's own word."""
        return any(turn.finish_reason == "length" for turn in self.turns)
