"""The metrics of a step's rollouts beside TRL's own: how many zoom, how many are right, and the cost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal

from vtagent.models.codec import Codec
from vtagent.protocol import THINK
from vtagent.training.measure.outcomes import Looks, kept_tokens, looks_of
from vtagent.training.rewards import Verdict, abstains, direct_share
from vtagent.training.rl.rollout import Rollout, Turn

Failure = Literal["failed", "truncated", "judge"]


@dataclass(frozen=True)
class Scored:
    """The facts about a rollout that all processes share. It holds no pixels and no tokens."""

    example: str
    source: str
    verdict: Verdict
    failure: Failure | None
    """Why there is no verdict: the run failed, a reply was too long, or the grader could not tell."""
    p_zoom: float | None
    """The probability of a zoom where the policy decided. None: no decision was found."""
    visual_tokens: int
    """The cost of all views that were shown."""
    kept_visual_tokens: int
    """The same without low views that a zoom replaced. See `measure.outcomes.kept_tokens`."""
    full_visual_tokens: int
    mistakes: int
    seconds: float
    looks: Looks = field(default_factory=Looks)
    """Where its zooms looked."""
    zooms: int = 0
    """Views granted."""
    abstained: bool = False
    """Whether the answer says that the image does not hold what was asked for."""
    unanswerable: bool = False
    """Whether that is the gold answer."""
    length: int = 0
    """Tokens that the policy sampled, in all replies of the run."""

    @classmethod
    def of(cls, rollout: Rollout, verdict: Verdict, failure: Failure | None, codec: Codec) -> Scored:
        """Collect the facts.

        Args:
            rollout: The rollout.
            verdict: Its verdict.
            failure: Why the verdict is missing, if it is.
            codec: The codec of the policy's tokenizer.
        """
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
            looks=looks_of(rollout.views, rollout.example.value_box),
            zooms=rollout.zooms,
            abstained=abstains(rollout.answer),
            unanswerable=abstains(rollout.example.answer),
            length=sum(len(turn.completion_ids) for turn in rollout.turns),
        )


def decision(turn: Turn, codec: Codec) -> float | None:
    """The probability of a call at the decision; see `decision_place`.

    If the reply called, this is the probability of the sampled token. If not, it is one minus the probability of the
    token that was sampled instead.

    Args:
        turn: The first turn of a rollout.
        codec: The codec of the policy's tokenizer.

    Returns:
        The probability, or None if the reply ended before the decision.
    """
    if (place := decision_place(turn, codec)) is None:
        return None
    sampled = math.exp(turn.logprobs[place])
    return sampled if turn.completion_ids[place] == codec.tool_call_id else 1.0 - sampled


def decision_place(turn: Turn, codec: Codec) -> int | None:
    """The place in a reply where the policy decides: the first token with any text after `</think>`, or a call.

    Args:
        turn: The first turn of a rollout.
        codec: The codec of the policy's tokenizer.

    Returns:
        The index of the token, or None if the reply ended before the decision.
    """
    reader = codec.detokenizer()
    for place, token in enumerate(turn.completion_ids):
        thought = THINK[1] in reader.text
        if token == codec.tool_call_id:
            return place
        said = reader.push(token)
        if thought and said.rpartition(THINK[1])[2].strip():
            return place
    return None


def rollout_metrics(groups: Sequence[Sequence[Scored]], replacing: Sequence[Sequence[Scored]] = ()) -> dict[str, float]:
    """The metrics of a generation batch, by name. A metric without data is left out.

    Args:
        groups: The rollouts of all processes, one sequence per prompt.
        replacing: The rollouts of prompts that replaced others. Only their failures are counted.
    """
    rows = [row for group in groups for row in group]
    failures = Counter(row.failure for group in (*groups, *replacing) for row in group)
    ran = [row for row in rows if row.failure != "failed"]
    graded = [row for row in rows if row.verdict.right is not None]
    decided = [row.p_zoom for row in ran if row.p_zoom is not None]
    found: dict[str, float | None] = {
        "zoom/all": _mean(row.verdict.zoomed for row in ran),
        "zoom/right": _mean(row.verdict.zoomed for row in graded if row.verdict.right),
        "zoom/wrong": _mean(row.verdict.zoomed for row in graded if not row.verdict.right),
        "accuracy/all": _mean(bool(row.verdict.right) for row in graded),
        "accuracy/direct": _mean(bool(row.verdict.right) for row in graded if not row.verdict.zoomed),
        "accuracy/zoomed": _mean(bool(row.verdict.right) for row in graded if row.verdict.zoomed),
        "format/well_formed": _mean(row.verdict.well_formed for row in ran),
        "decision/p_zoom": _mean(decided),
        "decision/entropy": _mean(_entropy(p) for p in decided),
        "groups/r": _mean(r for group in groups if (r := direct_share([row.verdict for row in group])) is not None),
        "visual_tokens/mean": _mean(row.visual_tokens for row in ran),
        **_tokens(ran, ""),
        **_looks(ran, ""),
        "rollouts/unscored": _mean(row.verdict.right is None for row in rows),
        "rollouts/failed": failures["failed"],
        "rollouts/truncated": failures["truncated"],
        "rollouts/judge_failed": failures["judge"],
        "rollouts/mistakes": _mean(row.mistakes for row in ran),
        "rollouts/seconds": _mean(row.seconds for row in rows),
        **_lengths([row.length for row in ran]),
    }
    for source in sorted({row.source for row in rows}):
        own = [row for row in ran if row.source == source]
        found[f"zoom/{source}"] = _mean(row.verdict.zoomed for row in own)
        known = [row for row in own if row.verdict.right is not None]
        found[f"accuracy/{source}"] = _mean(bool(row.verdict.right) for row in known)
        found[f"direct_accuracy/{source}"] = _mean(bool(row.verdict.right) for row in known if not row.verdict.zoomed)
        found[f"zoomed_accuracy/{source}"] = _mean(bool(row.verdict.right) for row in known if row.verdict.zoomed)
        found[f"decision/p_zoom/{source}"] = _mean(row.p_zoom for row in own if row.p_zoom is not None)
        found |= _tokens(own, f"/{source}")
        found |= _looks(own, f"/{source}")
    return {name: float(value) for name, value in found.items() if value is not None}


def _mean(values: Iterable[float]) -> float | None:
    """The mean, which for truth values is the share of true ones; None without values."""
    known = list(values)
    return fmean(known) if known else None


def _lengths(lengths: Sequence[int]) -> dict[str, float]:
    """Sampled tokens of a run: the median, the 95th percentile and the longest."""
    if not lengths:
        return {}
    order = sorted(lengths)
    at = {"p50": 0.5, "p95": 0.95, "max": 1.0}
    return {f"length/{name}": float(order[math.ceil(share * len(order)) - 1]) for name, share in at.items()}


def _tokens(rows: Sequence[Scored], suffix: str) -> dict[str, float]:
    """Visual tokens as a share of full resolution at once: of all views shown, and of the views kept."""
    full = sum(row.full_visual_tokens for row in rows)
    if not full:
        return {}
    return {
        f"visual_tokens/of_full{suffix}": sum(row.visual_tokens for row in rows) / full,
        f"visual_tokens/kept_of_full{suffix}": sum(row.kept_visual_tokens for row in rows) / full,
    }


def _looks(rows: Sequence[Scored], suffix: str) -> dict[str, float | None]:
    """Where zooms looked: share that holds the value, mean area, zooms into a part per run; and who abstains."""
    placed = [row for row in rows if row.looks.holding is not None]
    zooms, placed_zooms = sum(row.zooms for row in rows), sum(row.zooms for row in placed)
    return {
        f"regions/holding{suffix}": sum(row.looks.holding or 0 for row in placed) / placed_zooms
        if placed_zooms
        else None,
        f"regions/area{suffix}": sum(row.looks.area for row in rows) / zooms if zooms else None,
        f"regions/per_run{suffix}": _mean(row.looks.regions for row in rows),
        f"abstention/precision{suffix}": _mean(row.unanswerable for row in rows if row.abstained),
        f"abstention/recall{suffix}": _mean(row.abstained for row in rows if row.unanswerable),
    }


def _entropy(p: float) -> float:
    """The entropy of a choice between two, in nats."""
    return -sum(q * math.log(q) for q in (p, 1 - p) if q > 0)
