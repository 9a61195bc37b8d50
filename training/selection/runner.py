"""Tries questions: answers each several times at both resolutions, by runs of the graph, and keeps the counts."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence

from vtagent.errors import ImageError
from vtagent.models.chat import ChatVLM
from vtagent.training.data import Example
from vtagent.training.measure.modes import MODES
from vtagent.training.progress import Progress
from vtagent.training.rewards.grading import Grader
from vtagent.training.rl.collect import Collector, Job
from vtagent.training.rl.rollout import Rollout
from vtagent.training.run_example import grade
from vtagent.training.selection.trials import NEEDS_FULL, SUFFICES, Trial, TrialLog, kind_of

COMPARED = ("quarter", "full")
"""The modes of low and of full resolution."""


class TrialRunner:
    """Answers questions several times at both resolutions and counts the right ones.

    Args:
        model: The policy, with the temperature to sample at.
        grader: Says what is right.
        samples: Answers at each resolution.
        seed: The seed of everything that is sampled.
        limit: Seconds that a run may take.
        concurrency: Number of concurrent runs.
    """

    def __init__(
        self,
        model: ChatVLM,
        grader: Grader,
        *,
        samples: int,
        seed: int = 0,
        limit: float = 600.0,
        concurrency: int = 256,
    ) -> None:
        self.grader, self.samples, self.seed = grader, samples, seed
        self._collectors = {
            mode: Collector(model, context=MODES[mode].context(model), limit=limit, concurrency=concurrency)
            for mode in COMPARED
        }

    def counts(self, examples: Sequence[Example]) -> list[tuple[int, int] | str]:
        """Answer questions.

        Args:
            examples: The questions.

        Returns:
            For each question the number of right answers at low and at full resolution, or why they are not known.
        """
        found = [self._right(mode, examples) for mode in COMPARED]
        return [
            low if isinstance(low, str) else full if isinstance(full, str) else (low, full)
            for low, full in zip(*found, strict=True)
        ]

    def close(self) -> None:
        """End the event loops of the runs."""
        for collector in self._collectors.values():
            collector.close()

    def _right(self, mode: str, examples: Sequence[Example]) -> list[int | str]:
        """For each question the number of right answers in a mode, or why it is not known."""
        collector = self._collectors[mode]
        jobs = [
            Job(example, random.Random(f"{self.seed}/{example.id}/{mode}/{sample}").getrandbits(48))
            for example in examples
            for sample in range(self.samples)
        ]
        rollouts = collector.collect(jobs)
        verdicts = collector.wait(self._graded(rollouts))
        rights: list[int | str] = []
        for start in range(0, len(jobs), self.samples):
            part = slice(start, start + self.samples)
            failed = [rollout.error for rollout in rollouts[part] if rollout.error]
            if failed or None in verdicts[part]:
                rights.append(str(failed[0]) if failed else "the judge gave no verdict")
            else:
                rights.append(sum(verdict is True for verdict in verdicts[part]))
        return rights

    async def _graded(self, rollouts: Sequence[Rollout]) -> list[bool | None]:
        async def one(rollout: Rollout) -> bool | None:
            return None if rollout.error else await grade(self.grader, rollout.example, rollout.answer)

        return list(await asyncio.gather(*(one(rollout) for rollout in rollouts)))


def select(
    runner: TrialRunner,
    examples: Sequence[Example],
    log: TrialLog,
    *,
    gain: int,
    want: int | None = None,
    shard: tuple[int, int] = (1, 1),
    batch: int = 16,
) -> Counter[str]:
    """Try the questions of a shard that are not in the log, until there are enough of each kind.

    Args:
        runner: Answers the questions.
        examples: The questions of all shards.
        log: Holds the earlier trials and keeps the new ones.
        gain: See `kind_of`.
        want: This many of each kind are enough, in all shards together. None: try all questions.
        shard: (i, n): the i-th of n parts, from 1.
        batch: Number of questions whose runs are concurrent.

    Returns:
        Why questions could not be tried, and how many. They are tried again the next time.
    """
    order = list(range(len(examples)))
    random.Random(f"select/{runner.seed}").shuffle(order)
    order = order[shard[0] - 1 :: shard[1]]
    need = None if want is None else -(-want // shard[1])
    found: Counter[str | None] = Counter()
    failures: Counter[str] = Counter()
    progress = Progress(len(order), unit="questions")
    for start in range(0, len(order), batch):
        fresh = []
        for place in order[start : start + batch]:
            try:
                example = examples[place]
            except ImageError as error:
                failures[str(error)] += 1
                progress.step()
                continue
            if (known := log.trials.get(example.id)) is not None:
                found[kind_of(known.low, known.full, known.samples, gain)] += 1
                progress.step("tried before")
            else:
                fresh.append(example)
        for example, counts in zip(fresh, runner.counts(fresh) if fresh else [], strict=True):
            if isinstance(counts, str):
                failures[counts] += 1
            else:
                trial = _keep(log, example, *counts, samples=runner.samples, gain=gain)
                found[kind_of(trial.low, trial.full, trial.samples, gain)] += 1
            progress.step(f"{found[SUFFICES]} suffice, {found[NEEDS_FULL]} need full")
        if need is not None and min(found[SUFFICES], found[NEEDS_FULL]) >= need:
            break
    progress.close()
    return failures


def _keep(log: TrialLog, example: Example, low: int, full: int, *, samples: int, gain: int) -> Trial:
    """Log a trial, its images first, so that a logged trial always has them."""
    image: str | list[str] | None = None
    if kind_of(low, full, samples, gain) is not None:
        kept = [log.keep_image(each) for each in example.images]
        image = kept[0] if len(kept) == 1 else kept
    trial = Trial(example.id, image, example.question, example.answers, example.source, low, full, samples)
    log.add(trial)
    return trial
