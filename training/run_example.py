"""One question, one run of the graph, one verdict: what training, evaluation and selection have in common."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import HumanMessage

from vtagent.errors import described
from vtagent.graphs.zoom import ZoomContext
from vtagent.images import ImageStore
from vtagent.training.data import Example
from vtagent.training.rewards import Grader
from vtagent.views import View

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExampleRun:
    """The result of one run of the graph: a final state or an error."""

    seconds: float
    """From the start of the run to its end, with the others of its batch in progress."""
    state: dict[str, Any] = field(default_factory=dict)
    """The final state of the graph; empty if the run failed."""
    error: Exception | None = None
    """Why the run failed; TimeoutError if it took too long."""


async def run_example(
    agent: Any,
    example: Example,
    context: ZoomContext,
    store: ImageStore,
    *,
    limit: float | None = None,
    text_first: bool = False,
) -> ExampleRun:
    """Ask the question of an example by one run of the graph. A run that fails is a result, not an exception.

    Args:
        agent: The compiled graph.
        example: The question and its image.
        context: The settings of the run.
        store: Where the image is put; the graph reads it there.
        limit: Seconds that the run may take. None: no limit.
        text_first: Whether the question stands before the image. A model may still be shown images first
            (`ChatVLM.images_first`).

    Returns:
        The final state, or the error.
    """
    start = time.perf_counter()
    try:
        state = await asyncio.wait_for(_invoke(agent, example, context, store, text_first), limit)
    except TimeoutError as error:
        late = error if limit is None else TimeoutError(f"no answer within {limit:g} seconds")
        return ExampleRun(time.perf_counter() - start, error=late)
    except Exception as error:
        return ExampleRun(time.perf_counter() - start, error=error)
    return ExampleRun(time.perf_counter() - start, state=state)


async def grade(grader: Grader, example: Example, answer: str | None) -> bool | None:
    """Whether an answer is right. None: the grader cannot tell, or it raised, which is not held against the answer."""
    try:
        return await grader.grade(example.question, example.answers, answer)
    except Exception as error:  # graders can be of any make
        _log.warning("an answer is not graded: %s", described(error))
        return None


async def _invoke(
    agent: Any, example: Example, context: ZoomContext, store: ImageStore, text_first: bool
) -> dict[str, Any]:
    ref = await asyncio.to_thread(store.put, example.image)
    blocks: list[str | dict[str, Any]] = [View(ref).block(), {"type": "text", "text": example.question}]
    message = HumanMessage(blocks[::-1] if text_first else blocks)
    state: dict[str, Any] = await agent.ainvoke({"messages": [message]}, context=context)
    return state
