"""Roll out one generation: groups of runs, graded, rewarded as groups, and replaced where they teach nothing.

Each process makes the runs of its own rows. What rewards need to know of a run is gathered from all processes first,
so a group may straddle them; as all processes see the same, all decide alike which groups are replaced.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vtagent.errors import ImageError, ModelError
from vtagent.models.codec import Codec
from vtagent.training.data import Example
from vtagent.training.rewards import Grader, Reward, Verdict, group_rewards
from vtagent.training.rl.collect import Collector, Job
from vtagent.training.rl.metrics import Failure, Scored
from vtagent.training.rl.order import seed_of
from vtagent.training.rl.rollout import Rollout
from vtagent.training.rl.samples import SampleMaker, TrainingSample
from vtagent.training.rl.settings import GraphGRPOConfig
from vtagent.training.run_example import grade

SAME = 1e-4
"""Rewards of a group that differ by less than this teach nothing (VisionThink, arXiv:2507.13348, drops such groups)."""


@dataclass(frozen=True)
class Member:
    """One rollout of a group on this process."""

    group: int
    """Equal for all rollouts of one prompt, on whichever process."""
    rollout: Rollout
    row: TrainingSample
    scored: Scored
    reward: Reward | None
    sampled: list[int]
    """1 on the row's sampled tokens, learned from or not, as long as its completion."""


@dataclass(frozen=True)
class GenerationBatch:
    """What came of one generation."""

    members: list[Member]
    """The rows of this process."""
    groups: list[list[Scored]]
    """Of all processes, as first rolled out: replaced groups too, for figures that replacing shall not bend."""
    same: int
    """Groups whose rewards are all the same in the end."""
    refilled: int
    """Groups that were replaced."""
    replacing: Sequence[Sequence[Scored]] = ()
    """Of all processes, those that replaced others; they may have been replaced themselves."""


class GroupRoller:
    """Makes generations.

    Args:
        collector: Runs the graph.
        grader: Says what is right.
        rows: Makes rows of rollouts.
        codec: Of the policy's tokenizer.
        args: The settings.
        examples: What is trained on.
        gather: Lists of all processes, joined in the order of ranks.
        rank: Of this process.
    """

    def __init__(
        self,
        collector: Collector,
        grader: Grader,
        rows: SampleMaker,
        codec: Codec,
        args: GraphGRPOConfig,
        examples: Sequence[Example],
        *,
        gather: Callable[[list[Any]], list[Any]],
        rank: int,
    ) -> None:
        self._collector, self._grader, self._rows, self._codec = collector, grader, rows, codec
        self._args, self._examples, self._gather, self._rank = args, examples, gather, rank

    def roll(self, indices: Sequence[int], window: int) -> GenerationBatch:
        """Roll out this process's rows of a generation.

        Args:
            indices: The example of each row.
            window: The generation's number; with the seed it decides all that is sampled.
        """
        size = int(self._args.num_generations)
        group_of = [(self._rank * len(indices) + place) // size for place in range(len(indices))]
        chosen = dict(zip(range(len(indices)), indices, strict=True))
        made: dict[int, tuple[Rollout, TrainingSample, Scored]] = {}
        rewards: list[Reward | None] = []
        first: list[list[Scored]] = []
        replacing: list[list[Scored]] = []
        same: list[int] = []
        refilled = 0
        renewed = list(range(len(indices)))
        for attempt in range(self._args.refill_rounds + 1):
            examples = {index: self._read(index) for index in {chosen[place] for place in renewed}}
            jobs = [
                Job(
                    examples[chosen[place]],
                    seed_of("rollout", self._args.seed, window, attempt, self._rank * len(indices) + place),
                )
                for place in renewed
            ]
            made |= dict(zip(renewed, self._made(jobs), strict=True))
            groups = self._groups([made[place][2] for place in range(len(indices))])
            first = first or groups
            replacing += [groups[g] for g in same]
            rewards = [
                reward
                for group in groups
                for reward in group_rewards([row.verdict for row in group], self._args.rewards)
            ]
            same = [g for g in range(len(groups)) if _same(rewards[g * size : (g + 1) * size])]
            if not same or attempt == self._args.refill_rounds:
                break
            refilled += len(same)
            spare = {g: seed_of("refill", self._args.seed, window, attempt, g) % len(self._examples) for g in same}
            renewed = [place for place, group in enumerate(group_of) if group in spare]
            chosen |= {place: spare[group_of[place]] for place in renewed}
        own = rewards[self._rank * len(indices) :]
        idle = same if self._args.drop_same else []
        members = [
            Member(
                group_of[place],
                rollout,
                row.without_lesson() if own[place] is None or group_of[place] in idle else row,
                scored,
                own[place],
                row.tool_mask,
            )
            for place, (rollout, row, scored) in sorted(made.items())
        ]
        return GenerationBatch(members, first, len(same), refilled, replacing)

    def _read(self, index: int) -> Example:
        """The example; if its picture has gone since the start, one without any, whose runs fail."""
        try:
            return self._examples[index]
        except ImageError as error:
            return Example(id="", image=b"", question=str(error), answers=("",), source="unreadable")

    def _made(self, jobs: Sequence[Job]) -> list[tuple[Rollout, TrainingSample, Scored]]:
        """Rollouts with their rows and verdicts; a row that cannot be made is a run that failed."""
        pairs = [self._with_row(rollout) for rollout in self._collector.collect(jobs)]
        judged = self._collector.wait(self._graded([rollout for rollout, _ in pairs]))
        return [
            (rollout, row, Scored.of(rollout, verdict, failure, self._codec))
            for (rollout, row), (verdict, failure) in zip(pairs, judged, strict=True)
        ]

    def _with_row(self, rollout: Rollout) -> tuple[Rollout, TrainingSample]:
        if rollout.error is None:
            try:
                return rollout, self._rows.row(rollout)
            except ModelError as error:
                rollout = Rollout(rollout.example, seconds=rollout.seconds, error=str(error))
        return rollout, self._rows.empty()

    async def _graded(self, rollouts: Sequence[Rollout]) -> list[tuple[Verdict, Failure | None]]:
        return list(await asyncio.gather(*(self._verdict(rollout) for rollout in rollouts)))

    async def _verdict(self, rollout: Rollout) -> tuple[Verdict, Failure | None]:
        if rollout.error is not None:
            return Verdict(None, False, False), "failed"
        well_formed, zoomed = rollout.well_formed, rollout.zooms > 0
        if rollout.truncated and self._args.mask_truncated_completions:
            return Verdict(None, well_formed, zoomed), "truncated"
        right = await grade(self._grader, rollout.example, rollout.answer)
        return Verdict(right, well_formed, zoomed), "judge" if right is None else None

    def _groups(self, local: list[Scored]) -> list[list[Scored]]:
        """All processes' rows, cut into groups."""
        size = int(self._args.num_generations)
        rows: list[Scored] = self._gather(local)
        groups = [rows[start : start + size] for start in range(0, len(rows), size)]
        if any(len({row.example for row in group if row.failure != "failed"}) > 1 for group in groups):
            raise ModelError(
                "the rows of a group are of different prompts: processes disagree on the order of the data"
            )
        return groups


def _same(rewards: Sequence[Reward | None]) -> bool:
    totals = [reward.total for reward in rewards if reward is not None]
    return len(totals) < 2 or max(totals) - min(totals) < SAME
