"""Makes one generation batch: groups of rollouts, graded, rewarded as groups, and replaced where they teach nothing.

Each process makes the rollouts of its own samples. What rewards need to know of a rollout is first gathered from all
processes, so a group may span several of them. All processes see the same data, so they make the same decision on which
groups to replace.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeAlias

from vtagent.errors import ImageError, ModelError, described
from vtagent.models.codec import Codec
from vtagent.training.data import Example
from vtagent.training.rewards import Grader, Reward, Verdict, group_rewards
from vtagent.training.rl.checkpoints import seed_of
from vtagent.training.rl.collect import Collector, Job
from vtagent.training.rl.metrics import Failure, Scored
from vtagent.training.rl.rollout import Rollout
from vtagent.training.rl.samples import SampleMaker, TrainingSample
from vtagent.training.rl.settings import GraphGRPOConfig
from vtagent.training.run_example import grade

_log = logging.getLogger(__name__)

SAME = 1e-4
"""A group whose rewards differ by less than this teaches nothing (VisionThink, arXiv:2507.13348, drops such groups)."""


@dataclass(frozen=True)
class Member:
    """One rollout of a group on this process."""

    group: int
    """Equal for all rollouts of one prompt, on all processes."""
    rollout: Rollout
    sample: TrainingSample
    scored: Scored
    reward: Reward | None
    sampled: list[int]
    """1 on the sampled tokens of the sample, even where its `tool_mask` leaves them out of the loss."""


@dataclass(frozen=True)
class GenerationBatch:
    """The result of one generation batch."""

    members: list[Member]
    """The rollouts of this process."""
    groups: list[list[Scored]]
    """The groups of all processes before any replacement. Kept so that replacement does not bias the metrics."""
    same_groups: frozenset[int]
    """The groups whose rewards are all the same in the end."""
    refilled: int
    """Number of groups that were replaced by one that teaches something."""
    final: Sequence[Sequence[Scored]] = ()
    """The groups of all processes after all replacements."""
    replacing: Sequence[Sequence[Scored]] = ()
    """The groups of all processes that were tried in place of others, whether they taught something or not."""

    @property
    def same(self) -> int:
        """Number of groups whose rewards are all the same in the end."""
        return len(self.same_groups)

    @property
    def active(self) -> int:
        """Number of rows, on all processes, that teach something."""
        teaching = [group for g, group in enumerate(self.final) if g not in self.same_groups]
        return sum(row.verdict.right is not None for group in teaching for row in group)


@dataclass(frozen=True)
class _Rolled:
    """A rollout with its sample and its score."""

    rollout: Rollout
    sample: TrainingSample
    scored: Scored


RewardFunction: TypeAlias = Callable[[Rollout], float | Awaitable[float]]
"""Scores a rollout that did not fail. What it returns must be finite."""
WeightedFunction: TypeAlias = tuple[RewardFunction, float]


@dataclass(frozen=True)
class GroupRoller:
    """Makes generation batches."""

    collector: Collector
    """Runs the graph."""
    grader: Grader
    """Says what is right."""
    maker: SampleMaker
    """Makes training samples of rollouts."""
    codec: Codec
    """The codec of the policy's tokenizer."""
    args: GraphGRPOConfig
    examples: Sequence[Example]
    """What is trained on."""
    gather: Callable[[list[Any]], list[Any]]
    """Joins the lists of all processes, in the order of ranks."""
    rank: int
    """The rank of this process."""
    functions: Mapping[str, WeightedFunction] = field(default_factory=dict)
    """Further terms of the reward, by name."""
    spent: dict[str, float] = field(default_factory=lambda: {"rollouts": 0.0, "grading": 0.0})
    """Seconds of this process so far, for "rollouts" and "grading"."""

    def roll(self, indices: Sequence[int], window: int) -> GenerationBatch:
        """Make the rollouts of this process for one generation batch.

        A group that teaches nothing is replaced. In each round, twice as many prompts are tried for each such group as
        in the round before, and the first that teaches something takes its place: nine in ten may teach nothing, and
        five rounds leave 4 % of the places empty.

        Args:
            indices: The example of each sample.
            window: The number of the generation batch. With the seed it decides everything that is sampled.
        """
        size = int(self.args.num_generations)
        first_place = self.rank * len(indices)
        group_of = [(first_place + place) // size for place in range(len(indices))]
        seeds = [seed_of("rollout", self.args.seed, window, 0, first_place + place) for place in range(len(indices))]
        made = dict(enumerate(self._rolled(self._jobs(indices, seeds))))
        first = self._groups([made[place].scored for place in range(len(indices))])
        groups, rewards = list(first), [self._rewards(group) for group in first]
        same = [g for g, found in enumerate(rewards) if _same(found)]
        replacing: list[list[Scored]] = []
        refilled = 0
        spare = self._spare(indices, window) if same and self.args.refill_rounds else iter(())
        for attempt in range(1, self.args.refill_rounds + 1):
            if not same:
                break
            tries = [{g: next(spare) for g in same} for _ in range(2 ** (attempt - 1))]
            mine = [
                (layer, place)
                for layer, chosen in enumerate(tries)
                for place in range(len(indices))
                if group_of[place] in chosen
            ]
            seeds = [
                seed_of("rollout", self.args.seed, window, attempt, first_place + place, layer) for layer, place in mine
            ]
            jobs = self._jobs([tries[layer][group_of[place]] for layer, place in mine], seeds)
            rows = dict(zip(mine, self._rolled(jobs), strict=True))
            left = set(same)
            for layer in range(len(tries)):
                tried = self._groups([rows.get((layer, place), made[place]).scored for place in range(len(indices))])
                for g in sorted(left):
                    found = self._rewards(tried[g])
                    replacing.append(tried[g])
                    if not _same(found):
                        left.remove(g)
                        groups[g], rewards[g] = tried[g], found
                        made |= {
                            place: row for (of, place), row in rows.items() if of == layer and group_of[place] == g
                        }
            refilled += len(same) - len(left)
            same = sorted(left)
        own = [reward for group in rewards for reward in group][first_place:]
        idle = same if self.args.drop_same else []
        members = [
            Member(
                group=group_of[place],
                rollout=rolled.rollout,
                sample=rolled.sample.without_lesson()
                if own[place] is None or group_of[place] in idle
                else rolled.sample,
                scored=rolled.scored,
                reward=own[place],
                sampled=rolled.sample.tool_mask,
            )
            for place, rolled in sorted(made.items())
        ]
        return GenerationBatch(members, first, frozenset(same), refilled, groups, replacing)

    def _jobs(self, indices: Sequence[int], seeds: Sequence[int]) -> list[Job]:
        """One run for each example and seed; an example is read once."""
        examples = {index: self._read(index) for index in dict.fromkeys(indices)}
        return [Job(examples[index], seed) for index, seed in zip(indices, seeds, strict=True)]

    def _rewards(self, group: Sequence[Scored]) -> list[Reward | None]:
        return group_rewards([scored.verdict for scored in group], self.args.rewards)

    def _spare(self, indices: Sequence[int], window: int) -> Iterator[int]:
        """Endless examples to replace groups with, none twice and none of this batch as long as there are others.

        All processes get the same ones.
        """
        used = set(self.gather(list(indices)))
        others = [index for index in range(len(self.examples)) if index not in used] or sorted(used)
        for number in count():
            random.Random(f"spare/{self.args.seed}/{window}/{number}").shuffle(others)
            yield from others

    def _read(self, index: int) -> Example:
        """The example. If its image has disappeared since the start, one whose image is none, so that its runs fail."""
        try:
            return self.examples[index]
        except ImageError as error:
            return Example(id="", image=b"missing", question=str(error), answers=("",), source="unreadable")

    def _rolled(self, jobs: Sequence[Job]) -> list[_Rolled]:
        """Make rollouts with their samples and scores. A rollout that no sample can be made of has failed."""
        began = time.perf_counter()
        pairs = [self._with_sample(rollout) for rollout in self.collector.collect(jobs)]
        rolled = time.perf_counter()
        judged = self.collector.wait(self._graded([rollout for rollout, _ in pairs]))
        self.spent["rollouts"] += rolled - began
        self.spent["grading"] += time.perf_counter() - rolled
        return [
            _Rolled(rollout, sample, Scored.of(rollout, verdict, failure, self.codec))
            for (rollout, sample), (verdict, failure) in zip(pairs, judged, strict=True)
        ]

    def _with_sample(self, rollout: Rollout) -> tuple[Rollout, TrainingSample]:
        if rollout.error is None:
            try:
                return rollout, self.maker.sample(rollout)
            except ModelError as error:
                rollout = Rollout(rollout.example, seconds=rollout.seconds, error=str(error))
        return rollout, self.maker.empty()

    async def _graded(self, rollouts: Sequence[Rollout]) -> list[tuple[Verdict, Failure | None]]:
        return list(await asyncio.gather(*(self._verdict(rollout) for rollout in rollouts)))

    async def _verdict(self, rollout: Rollout) -> tuple[Verdict, Failure | None]:
        if rollout.error is not None:
            return Verdict(None, False, False), "failed"
        well_formed, zoomed, shown = rollout.well_formed, rollout.zooms > 0, rollout.shown_of_full
        if rollout.truncated and self.args.mask_truncated_completions:
            return Verdict(None, well_formed, zoomed, shown), "truncated"
        right = await grade(self.grader, rollout.example, rollout.answer)
        scores = None if right is None else await self._scores(rollout)
        if scores is None:
            return Verdict(None, well_formed, zoomed, shown), "judge"
        return Verdict(right, well_formed, zoomed, shown, scores), None

    async def _scores(self, rollout: Rollout) -> dict[str, float] | None:
        """What the functions find; None: one of them cannot tell, or raised, which is not held against the rollout."""
        scores = {}
        for name, (function, weight) in self.functions.items():
            try:
                found = function(rollout)
                score = float(await found if isinstance(found, Awaitable) else found)
            except Exception as error:  # functions can be of any make
                _log.warning("the reward function %s failed: %s", name, described(error))
                return None
            if not math.isfinite(score):
                _log.warning("the reward function %s returned %s for a rollout; it has no reward then", name, score)
                return None
            scores[name] = weight * score
        return scores

    def _groups(self, local: list[Scored]) -> list[list[Scored]]:
        """Gather the scores of all processes and cut them into groups.

        Raises:
            ModelError: A group holds rollouts of different prompts.
        """
        size = int(self.args.num_generations)
        everywhere: list[Scored] = self.gather(local)
        groups = [everywhere[start : start + size] for start in range(0, len(everywhere), size)]
        if any(len({scored.example for scored in group if scored.failure != "failed"}) > 1 for group in groups):
            raise ModelError(
                "the rows of a group are of different prompts: processes disagree on the order of the data"
            )
        return groups


def _same(rewards: Sequence[Reward | None]) -> bool:
    """Whether the rewards of a group are too alike to learn from; those without a verdict do not count."""
    totals = [reward.total for reward in rewards if reward is not None]
    return len(totals) < 2 or max(totals) - min(totals) < SAME
