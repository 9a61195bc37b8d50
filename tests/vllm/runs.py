"""Runs of the zoom graph over rendered documents, and the differences between two models' runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage

from vtagent.graphs.zoom import create_zoom_agent
from vtagent.images import ImageStore
from vtagent.models.chat import ChatVLM
from vtagent.models.records import KEY
from vtagent.training.data import Example
from vtagent.views import View
from vtagent.visual_tokens import VisionSpec

_AT_ONCE = 32


def question(store: ImageStore, example: Example) -> HumanMessage:
    """What is asked about a document."""
    page = View(store.put(example.image)).block()
    return HumanMessage([page, {"type": "text", "text": example.question}])


def run(
    model: BaseChatModel, examples: Sequence[Example], *, store: ImageStore, vision: VisionSpec | None = None
) -> list[Any]:
    """The final state of a run of the graph for each example, all of them concurrently."""
    agent = create_zoom_agent(model, image_store=store, vision=vision)
    questions: list[Any] = [{"messages": [question(store, example)]} for example in examples]
    return agent.batch(questions, {"max_concurrency": _AT_ONCE})


def records(state: Any) -> list[dict[str, Any]]:
    """The token records of a run's replies."""
    return [message.response_metadata[KEY] for message in state["messages"] if isinstance(message, AIMessage)]


@dataclass(frozen=True)
class Distance:
    """How far the runs of one model are from those of another."""

    runs: int
    answers: int
    """Runs whose answers are equal."""
    decisions: int
    """Runs that zoom equally often."""
    tokens: int
    """Sampled tokens that were compared."""
    logprob: float
    """The largest difference of their log-probabilities; infinite if the tokens differ."""


def distance(one: Sequence[Any], other: Sequence[Any]) -> Distance:
    """Compare runs on the same examples."""
    pairs = list(zip(one, other, strict=True))
    worst, tokens = 0.0, 0
    for a, b in pairs:
        ours, theirs = records(a), records(b)
        if [r["completion_ids"] for r in ours] != [r["completion_ids"] for r in theirs]:
            worst = float("inf")
            continue
        for mine, yours in zip(ours, theirs, strict=True):
            gaps = [abs(p - q) for p, q in zip(mine["logprobs"], yours["logprobs"], strict=True)]
            worst, tokens = max([worst, *gaps]), tokens + len(gaps)
    return Distance(
        runs=len(pairs),
        answers=sum(a["answer"] == b["answer"] for a, b in pairs),
        decisions=sum(a["usage"]["zooms"] == b["usage"]["zooms"] for a, b in pairs),
        tokens=tokens,
        logprob=worst,
    )


def reply(model: ChatVLM, example: Example, **options: Any) -> AIMessage:
    """A model's reply to one question about the small view."""
    view = View(model.image_store.put(example.image), scale=0.5).block()
    message = model.invoke([HumanMessage([view, {"type": "text", "text": example.question}])], **options)
    assert isinstance(message, AIMessage)
    return message
