"""One question, one run of the graph, one verdict: what training, evaluation and selection have in common."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from vtagent.errors import ModelError, described
from vtagent.eyes import eyes_of
from vtagent.graphs.budgets import Usage, ViewRecord, after_call, in_view, no_usage
from vtagent.graphs.tool_calls import answer_of
from vtagent.graphs.zoom import ZoomContext
from vtagent.images import ImageStore
from vtagent.models.chat import ChatVLM
from vtagent.tools.zoom_image import TOOL_NAME
from vtagent.training.data import Example
from vtagent.training.rewards import Grader
from vtagent.views import View

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ending:
    """What a run left, whatever graph it was a run of."""

    messages: tuple[BaseMessage, ...]
    """The conversation; images are references."""
    answer: str | None
    views: tuple[ViewRecord, ...]
    """All views that were shown."""
    usage: Usage
    stop: str | None
    """The budget that forced the answer; None: none did, or the graph has no budgets."""


@dataclass(frozen=True)
class ExampleRun:
    """The result of one run of a graph: an ending or an error."""

    seconds: float
    """From the start of the run to its end, with the others of its batch in progress."""
    left: Ending | Exception
    """What the run left, or why it failed; TimeoutError if it took too long."""


def ending_of(state: Mapping[str, Any], model: ChatVLM) -> Ending:
    """Read the final state of a graph.

    The zoom graph counts for itself. A graph that leaves messages alone is counted by them: its answer is the last
    reply's, its zooms are the views that its tools have shown, and its mistakes their errors.

    Args:
        state: The final state, with `messages`; also with `answer`, `views`, `usage` and `stop` if the graph has them.
        model: The model of the run. Its store holds the images.

    Raises:
        ModelError: The graph left no messages.
    """
    messages = state.get("messages")
    if not messages or not all(isinstance(message, BaseMessage) for message in messages):
        raise ModelError("the graph left no `messages`; its state must have them, as MessagesState has")
    replies = [message for message in messages if isinstance(message, AIMessage)]
    answer = state["answer"] if "answer" in state else answer_of(replies[-1]) if replies else None
    if "views" in state and "usage" in state:
        return Ending(tuple(messages), answer, tuple(state["views"]), state["usage"], state.get("stop"))
    views, usage = in_view(messages, no_usage(), model.image_store, tool_name=TOOL_NAME, eyes=eyes_of(model))
    for reply in replies:
        usage = after_call(usage, reply, 0.0)
    usage["zooms"] = sum(view["kind"] != "low" for view in views)
    usage["mistakes"] = sum(isinstance(message, ToolMessage) and message.status == "error" for message in messages)
    return Ending(tuple(messages), answer, tuple(views), usage, state.get("stop"))


async def run_example(
    agent: Any,
    example: Example,
    context: ZoomContext,
    model: ChatVLM,
    *,
    limit: float | None = None,
    text_first: bool = False,
) -> ExampleRun:
    """Ask the question of an example by one run of the graph. A run that fails is a result, not an exception.

    Args:
        agent: The compiled graph.
        example: The question and its images.
        context: The settings of the run.
        model: The model of the run. Images are put into its store, where the graph reads them.
        limit: Seconds that the run may take. None: no limit.
        text_first: Whether the question stands before the image. A model may still be shown images first
            (`ChatVLM.images_first`).

    Returns:
        What the run left, or the error.
    """
    start = time.perf_counter()
    try:
        state = await asyncio.wait_for(_invoke(agent, example, context, model.image_store, text_first), limit)
        ending = ending_of(state, model)
    except TimeoutError as error:
        late = error if limit is None else TimeoutError(f"no answer within {limit:g} seconds")
        return ExampleRun(time.perf_counter() - start, late)
    except Exception as error:
        return ExampleRun(time.perf_counter() - start, error)
    return ExampleRun(time.perf_counter() - start, ending)


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
    refs = [await asyncio.to_thread(store.put, image) for image in example.images]
    blocks: list[str | dict[str, Any]] = [View(ref).block() for ref in refs]
    blocks.append({"type": "text", "text": example.question})
    message = HumanMessage([blocks[-1], *blocks[:-1]] if text_first else blocks)
    state: dict[str, Any] = await agent.ainvoke({"messages": [message]}, context=context)
    return state
