"""What is logged about the rollouts of a step, beside what TRL logs: who zooms, who is right, what it costs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from vtagent.models.codec import Codec
from vtagent.protocol import THINK
from vtagent.training.measure.outcomes import kept_tokens
from vtagent.training.rewards import Verdict, direct_share
from vtagent.training.rl.rollout import Rollout, Turn

Failure = Literal["failed", "truncated", "judge"]


@dataclass(frozen=True)
class Scored:
    """What is known of a rollout on all processes: no pixels, no tokens."""

    example: str
    source: str
    verdict: Verdict
    failure: Failure | None
    """Why there is no verdict: the run failed, a reply was over-long, the judge gave none."""
    p_zoom: float | None
    """What the policy gave a call where it decided; None where no decision was found."""
    visual_tokens: int
    """Of all views that were shown."""
    kept_visual_tokens: int
    """Without low views that a zoom replaced; see `measure.outcomes.kept_tokens`."""
    full_visual_tokens: int
    mistakes: int
    seconds: float

    @classmethod
    def of(cls, rollout: Rollout, verdict: Verdict, failure: Failure | None, codec: Codec) -> Scored:
        """Out of a rollout and its verdict."""
        return cls(
            example=rollout.example.id,
            source=rollout.example.source,
            verdict=verdict,
            failure=failure,
            p_zoom=decision(rollout.turns[0], codec) if rollout.turns else None,
            visual_tokens=rollout.usage["visual_tokens"],
            kept_visual_tokens=kept_tokens(rollout.views),
            full_visual_tokens=rollout.usage["full_visual_tokens"],
            mistakes=rollout.usage["mistakes"],
            seconds=rollout.seconds,
        )


def decision(turn: Turn, codec: Codec) -> float | None:
    """The probability of a call where the first reply decided: at its first token that says something after `</think>`.

    Where the reply called, it is the sampled token's own; where not, one minus that of what was said instead. None if
    the reply did not get so far.
    """
    reader = codec.stream()
    for token, logprob in zip(turn.completion_ids, turn.logprobs, strict=True):
        thought = THINK[1] in reader.text
        if token == codec.tool_call_id:
            return math.exp(logprob)
        said = reader.push(token)
        if thought and said.rpartition(THINK[1])[2].strip():
            return 1.0 - math.exp(logprob)
    return None


def rollout_metrics(groups: Sequence[Sequence[Scored]], replacing: Sequence[Sequence[Scored]] = ()) -> dict[str, float]:
    """The metrics of a generation batch, by name; those of which nothing is known are left out.

    Args:
        groups: The rollouts of all processes, one sequence for each prompt.
        replacing: Those of prompts that replaced others; only what went wrong in them is counted, with the rest.
    """
    rows = [row for group in groups for row in group]
    failures = Counter(row.failure for group in (*groups, *replacing) for row in group)
    ran = [row for row in rows if row.failure != "failed"]
    graded = [row for row in rows if row.verdict.right is not None]
    decided = [row.p_zoom for row in ran if row.p_zoom is not None]
    found: dict[str, float | None] = {
        "zoom/all": _share(row.verdict.zoomed for row in ran),
        "zoom/right": _share(row.verdict.zoomed for row in graded if row.verdict.right),
        "zoom/wrong": _share(row.verdict.zoomed for row in graded if not row.verdict.right),
        "accuracy/all": _share(bool(row.verdict.right) for row in graded),
        "accuracy/direct": _share(bool(row.verdict.right) for row in graded if not row.verdict.zoomed),
        "accuracy/zoomed": _share(bool(row.verdict.right) for row in graded if row.verdict.zoomed),
        "format/well_formed": _share(row.verdict.well_formed for row in ran),
        "decision/p_zoom": _mean(decided),
        "decision/entropy": _mean([_entropy(p) for p in decided]),
        "groups/r": _mean([r for group in groups if (r := direct_share([row.verdict for row in group])) is not None]),
        "visual_tokens/mean": _mean([row.visual_tokens for row in ran]),
        **_tokens(ran, ""),
        "rollouts/failed": failures["failed"],
        "rollouts/truncated": failures["truncated"],
        "rollouts/judge_failed": failures["judge"],
        "rollouts/mistakes": _mean([row.mistakes for row in ran]),
        "rollouts/seconds": _mean([row.seconds for row in rows]),
    }
    for source in sorted({row.source for row in rows}):
        own = [row for row in ran if row.source == source]
        found[f"zoom/{source}"] = _share(row.verdict.zoomed for row in own)
        found[f"accuracy/{source}"] = _share(bool(row.verdict.right) for row in own if row.verdict.right is not None)
        found[f"decision/p_zoom/{source}"] = _mean([row.p_zoom for row in own if row.p_zoom is not None])
        found |= _tokens(own, f"/{source}")
    return {name: float(value) for name, value in found.items() if value is not None}


def _share(true: Iterable[bool]) -> float | None:
    return _mean(list(true))


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _tokens(rows: Sequence[Scored], suffix: str) -> dict[str, float]:
    """Visual tokens over those of full resolution at once, in both accountings: all shown, and those kept."""
    full = sum(row.full_visual_tokens for row in rows)
    if not full:
        return {}
    return {
        f"visual_tokens/of_full{suffix}": sum(row.visual_tokens for row in rows) / full,
        f"visual_tokens/kept_of_full{suffix}": sum(row.kept_visual_tokens for row in rows) / full,
    }


def _entropy(p: float) -> float:
    """Of a choice between two, in nats."""
    return -sum(q * math.log(q) for q in (p, 1 - p) if q > 0)
