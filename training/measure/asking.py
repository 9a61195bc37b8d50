"""Ask every question in every mode through the compiled graph; runs that fail are outcomes like any other."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from typing import Any

from langchain_core.messages import HumanMessage

from vtagent.graphs.zoom import ZoomAgent, create_zoom_agent
from vtagent.images import ImageStore
from vtagent.models.chat import ChatVLM
from vtagent.training.data import Example
from vtagent.training.measure.journal import Journal
from vtagent.training.measure.modes import Mode, in_order, mode_named
from vtagent.training.measure.outcomes import Outcome, kept_tokens
from vtagent.training.measure.progress import Progress
from vtagent.training.rewards.grading import Grader, build_grader
from vtagent.views import View

_log = logging.getLogger(__name__)


async def ask(
    agent: ZoomAgent, model: ChatVLM, example: Example, mode: Mode, grader: Grader, *, timeout: float | None = None
) -> dict[str, Any]:
    """Run the graph once; a run that raises, or takes longer than `timeout` seconds, fails by itself.

    An answer that the grader raises on is not graded.

    Returns:
        The fields of an `Outcome` that the run decides.
    """
    start = time.monotonic()
    store: ImageStore = model.store
    try:
        view = await asyncio.to_thread(lambda: View(store.put(example.image)))
        message = HumanMessage([view.block(), {"type": "text", "text": example.question}])
        run = agent.ainvoke({"messages": [message]}, context=mode.context(model))
        state = await asyncio.wait_for(run, timeout)
    except Exception as error:
        said = f"no answer within {timeout:g} seconds" if isinstance(error, TimeoutError) else str(error)
        failure = f"{type(error).__name__}: {' '.join(said.split())[:300]}"
        empty = {"answer": None, "zooms": 0, "visual_tokens": 0, "full_visual_tokens": 0}
        return {**empty, "right": False, "error": failure, "seconds": time.monotonic() - start}
    seconds = time.monotonic() - start
    usage = state["usage"]
    try:
        right = await grader.grade(example.question, example.answers, state["answer"])
    except Exception as error:  # a grader of any make: what it cannot say is not held against the answer
        _log.warning("an answer is not graded: %s: %s", type(error).__name__, " ".join(str(error).split())[:300])
        right = None
    return {
        "answer": state["answer"],
        "right": right,
        "zooms": usage["zooms"],
        "visual_tokens": usage["visual_tokens"],
        "full_visual_tokens": usage["full_visual_tokens"],
        "kept_visual_tokens": kept_tokens(state["views"]),
        "seconds": seconds,
        "stop": state["stop"],
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
) -> list[Outcome]:
    """All examples in all modes, mode after mode, `concurrency` runs at a time, with progress on standard error.

    Args:
        model: The policy, with the sampling it is to be measured with.
        examples: The questions.
        modes: Names for `measure.modes.mode_named`.
        grader: Says what is right; equal to a gold answer after normalisation if absent.
        journal: Where outcomes are kept as they come, and what it holds already is not asked again.
        timeout: Seconds a run may take; one that takes longer has failed.
        scale: Share of both sides at which the modes that offer the tool first show an image, instead of a half.
        max_zooms: Views that a run in these modes may ask for, instead of one.

    Returns:
        One outcome per example and mode, runs that failed included.
    """
    examples = list(examples)
    grader = grader or build_grader("exact")
    agent = create_zoom_agent(model, store=model.store)
    chosen = {name: mode_named(name).adapted(scale, max_zooms) for name in in_order(modes)}
    known = {
        (name, number): outcome
        for name in chosen
        for number in range(len(examples))
        if journal is not None and (outcome := journal.get(name, number)) is not None
    }
    outcomes = list(known.values())
    progress = Progress(len(chosen) * len(examples), done=len(known), unit="questions")
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
        model.engine.forget()  # what an earlier mode has computed would make this one look quick
        start = time.monotonic()
        await asyncio.gather(*(one(name, n, start) for n in range(len(examples)) if (name, n) not in known))
    progress.close()
    order = list(chosen)
    return sorted(outcomes, key=lambda outcome: (order.index(outcome.mode), outcome.number))
