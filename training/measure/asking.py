"""Asks every question in every mode by runs of the graph. A run that fails is an outcome, too.

`evaluate` does so for all examples; `ForcedProbe` for a few of them during training, with the decision forced.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from vtagent.errors import described
from vtagent.graphs.zoom import ZoomContext, create_zoom_agent
from vtagent.models.chat import ChatVLM
from vtagent.training.data import Example
from vtagent.training.measure.effects import DIRECT, ZOOM
from vtagent.training.measure.journal import Journal
from vtagent.training.measure.modes import MODES, Mode, in_order, mode_named
from vtagent.training.measure.outcomes import Outcome, kept_tokens, looks_of
from vtagent.training.progress import Progress
from vtagent.training.rewards import Grader, abstains, build_grader
from vtagent.training.run_example import grade, run_example

QUESTIONS = 32
"""Maximum questions of a `ForcedProbe`."""
_FORCED = {ZOOM: "forced/zoom/accuracy", DIRECT: "forced/direct/accuracy"}
"""The modes of a probe, and the names of their metrics."""


async def ask(
    agent: Any, model: ChatVLM, example: Example, mode: Mode, grader: Grader, *, timeout: float | None = None
) -> dict[str, Any]:
    """Run the graph once and grade its answer.

    Args:
        agent: The compiled graph.
        model: The policy. Without `images_first` it is shown the question first.
        example: The question and its image.
        mode: How the policy looks.
        grader: Says what is right.
        timeout: Seconds that the run may take. None: no limit.

    Returns:
        The fields of an `Outcome` that the run decides. A run that raises or takes too long has an `error`.
    """
    text_first = not model.images_first
    run = await run_example(agent, example, mode.context(model), model, limit=timeout, text_first=text_first)
    if isinstance(run.left, Exception):
        empty = {"answer": None, "zooms": 0, "visual_tokens": 0, "full_visual_tokens": 0}
        return {**empty, "right": False, "error": described(run.left), "seconds": run.seconds}
    ending, usage = run.left, run.left.usage
    return {
        "answer": ending.answer,
        "right": await grade(grader, example, ending.answer),
        "zooms": usage["zooms"],
        "visual_tokens": usage["visual_tokens"],
        "full_visual_tokens": usage["full_visual_tokens"],
        "kept_visual_tokens": kept_tokens(ending.views),
        "seconds": run.seconds,
        "stop": ending.stop,
        "abstained": abstains(ending.answer),
        **asdict(looks_of(ending.views, example.value_box)),
    }


async def evaluate(
    model: ChatVLM,
    examples: Iterable[Example],
    modes: Sequence[str],
    *,
    concurrency: int = 64,
    grader: Grader | None = None,
    journal: Journal | None = None,
    timeout: float | None = None,
    scale: float | None = None,
    max_zooms: int | None = None,
    build: Callable[[ChatVLM], Any] = create_zoom_agent,
) -> list[Outcome]:
    """Ask all examples in all modes, one mode after the other, with progress on standard error.

    Args:
        model: The policy, with the sampling to measure it with.
        examples: The questions.
        modes: Names for `measure.modes.mode_named`.
        concurrency: Number of concurrent runs.
        grader: Says what is right. Default: equal to a gold answer after normalisation.
        journal: Keeps outcomes as they arrive. Questions whose outcome it holds are not asked again.
        timeout: Seconds that a run may take. A run that takes longer has failed. None: no limit.
        scale: Share of both sides at which the modes that offer the tool first show an image. Default: a half.
        max_zooms: Views that a run in these modes may ask for. Default: one.
        build: Makes the graph. Another one than the zoom agent decides for itself what the modes' settings mean.

    Returns:
        One outcome per example and mode, including failed runs.
    """
    examples = list(examples)
    grader = grader or build_grader("exact")
    agent = build(model)
    chosen = {name: mode_named(name).adapted(scale, max_zooms) for name in in_order(modes)}
    known = {
        (name, number): outcome
        for name in chosen
        for number in range(len(examples))
        if journal is not None and (outcome := journal.get(name, number)) is not None
    }
    outcomes = list(known.values())
    total = len(chosen) * len(examples)
    if known:
        print(f"{len(known)} of {total} questions were done before", file=sys.stderr, flush=True)
    progress = Progress(total, done=len(known), unit="questions")
    gate = asyncio.Semaphore(concurrency)

    async def one(name: str, number: int, start: float) -> None:
        example = examples[number]
        async with gate:
            fields = await ask(agent, model, example, chosen[name], grader, timeout=timeout)
        outcome = Outcome(
            mode=name,
            source=example.source,
            id=example.id,
            question=example.question,
            gold=example.answer,
            unanswerable=abstains(example.answer),
            number=number,
            session=journal.session if journal else 0,
            ended=time.monotonic() - start,
            **fields,
        )
        if journal:
            journal.add(outcome)
        outcomes.append(outcome)
        progress.step(name)

    for name in chosen:
        model.engine.forget()  # cached results of an earlier mode would make this one look faster
        start = time.monotonic()
        await asyncio.gather(*(one(name, n, start) for n in range(len(examples)) if (name, n) not in known))
    progress.close()
    order = list(chosen)
    return sorted(outcomes, key=lambda outcome: (order.index(outcome.mode), outcome.number))


class _Probe:
    """Measures a policy on some questions while it trains.

    Args:
        model: The policy, greedy. Its images go to its own store.
        grader: Says what is right.
        examples: The questions.
        context: The settings of every run in training.
        limit: Seconds that a run may take.
        concurrency: Number of concurrent runs.
        build: Makes the graph.
    """

    def __init__(
        self,
        model: ChatVLM,
        grader: Grader,
        examples: Sequence[Example],
        *,
        context: ZoomContext,
        limit: float,
        concurrency: int = 64,
        build: Callable[[ChatVLM], Any] = create_zoom_agent,
    ) -> None:
        self._model, self._grader, self._limit, self._concurrency = model, grader, limit, concurrency
        self._agent, self._context, self._examples = build(model), context, self._chosen(examples)

    def _chosen(self, examples: Sequence[Example]) -> Sequence[Example]:
        """The questions that are asked; all of them, unless a probe says otherwise."""
        return examples

    async def _asked(self, mode: Mode) -> list[dict[str, Any]]:
        """What `ask` returns for each question in a mode."""
        gate = asyncio.Semaphore(self._concurrency)

        async def one(example: Example) -> dict[str, Any]:
            async with gate:
                return await ask(self._agent, self._model, example, mode, self._grader, timeout=self._limit)

        return list(await asyncio.gather(*(one(example) for example in self._examples)))


class HeldOutProbe(_Probe):
    """Measures during training how the policy does, greedily, on questions that it is not trained on."""

    async def measure(self) -> dict[str, float]:
        """Ask all questions.

        Returns:
            By metric name: the accuracy, for all questions and per source, the share of runs that zoom, and visual
            tokens as a share of full resolution's. Failed runs are wrong; ungraded answers do not count.
        """
        asked = await self._asked(Mode(scale=self._context.scale, max_zooms=self._context.max_zooms))
        sources = [example.source for example in self._examples]
        found: dict[str, float] = {}
        for source in (None, *sorted(set(sources))):
            own = [fields["right"] for fields, name in zip(asked, sources, strict=True) if source in (None, name)]
            if known := [float(right) for right in own if right is not None]:
                found[f"held_out/accuracy{'' if source is None else f'/{source}'}"] = fmean(known)
        full = sum(fields["full_visual_tokens"] for fields in asked)
        found["held_out/zoom"] = fmean(fields["zooms"] > 0 for fields in asked)
        found["held_out/of_full"] = sum(fields["visual_tokens"] for fields in asked) / full if full else 0.0
        return found


class ForcedProbe(_Probe):
    """Measures during training what the decision is worth: accuracy with zooming forced and forbidden.

    It always asks the same questions, evenly spaced ones of the training examples, at most `QUESTIONS`. If the accuracy
    with forced zooming falls, the policy is losing its ability to read. If both accuracies are equal, zooming gains
    nothing.
    """

    def _chosen(self, examples: Sequence[Example]) -> Sequence[Example]:
        step = max(1, len(examples) // QUESTIONS)
        return [examples[place] for place in range(0, len(examples), step)][:QUESTIONS]

    async def measure(self) -> dict[str, float]:
        """Ask all questions in both modes.

        Returns:
            By metric name the accuracy in each mode, for all questions and per source, and the shares of the questions
            that a zoom helped and hurt. Failed runs and ungraded answers do not count.
        """
        verdicts: dict[str, list[bool | None]] = {}
        for name in _FORCED:
            asked = await self._asked(MODES[name].adapted(self._context.scale, self._context.max_zooms))
            verdicts[name] = [None if fields.get("error") else fields["right"] for fields in asked]
        sources = [example.source for example in self._examples]
        found: dict[str, float] = {}
        for source in (None, *sorted(set(sources))):
            suffix = "" if source is None else f"/{source}"
            own = [place for place, other in enumerate(sources) if source in (None, other)]
            for forced, metric in _FORCED.items():
                if known := [right for place in own if (right := verdicts[forced][place]) is not None]:
                    found[f"{metric}{suffix}"] = fmean(known)
            pairs = [(verdicts[DIRECT][place], verdicts[ZOOM][place]) for place in own]
            if both := [pair for pair in pairs if None not in pair]:
                found[f"tool_effect/helped{suffix}"] = both.count((False, True)) / len(both)
                found[f"tool_effect/hurt{suffix}"] = both.count((True, False)) / len(both)
        return found
