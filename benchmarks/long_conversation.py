"""Measures the processor time of turn 50 of a conversation with 20 images, beside LangChain's `create_agent`.

    python -m benchmarks.long_conversation [--runs 100]

The model takes no time and wants pixels. Every turn is a question and an answer; 20 of the first 49 bring a document of
1280 × 960 pixels. `create_agent` is given all messages with the images as they came; the agents of this package are
given what they have left of the same turns. One pair of rows has no checkpointer; in the other pair the turns are a
thread, of which turn 50 is run again and again. Runs of the sides alternate, and medians are compared.
"""

from __future__ import annotations

import argparse
import base64
import io
import statistics
import time
from collections.abc import Callable
from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from PIL import Image, ImageDraw

from benchmarks._instant import Instant
from benchmarks._report import report
from vtagent.graphs.middleware import ZoomMiddleware
from vtagent.graphs.zoom import create_zoom_agent

TURNS, IMAGES = 50, 20

GOAL = 1.5
"""Highest ratio to the processor time of `create_agent`."""


class InstantChat(Instant):
    """A chat model that answers at once, and wants pixels."""

    shown: int = 0
    """Images of the last call."""

    def reply(self, messages: list[BaseMessage]) -> AIMessage:
        """As `Instant.reply`."""
        self.shown = sum(
            block["type"] in ("image", "image_url")
            for message in messages
            if isinstance(message.content, list)
            for block in message.content
            if isinstance(block, dict)
        )
        return AIMessage("<answer>It is 48.10.</answer>")


def document(number: int) -> str:
    """A page of lines as a PNG in base64."""
    page = Image.new("RGB", (1280, 960), "white")
    draw = ImageDraw.Draw(page)
    for line in range(40):
        draw.text((40, 20 + 23 * line), f"{number}.{line} " + "Item 12.50 " * 12, fill="black")
    png = io.BytesIO()
    page.save(png, "png")
    return base64.b64encode(png.getvalue()).decode()


def question(number: int) -> HumanMessage:
    """The question of a turn, counted from 1; the first turns bring a document each but the last of them."""
    text = {"type": "text", "text": f"What is the total of page {number}? Compare it with the pages before it."}
    if number % 2 and number < 2 * IMAGES:
        return HumanMessage([{"type": "image", "base64": document(number), "mime_type": "image/png"}, text])
    return HumanMessage([text])


SIDES: dict[str, Callable[[Any, Any], Any]] = {
    "create_agent": lambda model, saver: create_agent(model, checkpointer=saver),
    "create_agent with ZoomMiddleware": lambda model, saver: create_agent(
        model, middleware=[ZoomMiddleware()], checkpointer=saver
    ),
    "create_zoom_agent": lambda model, saver: create_zoom_agent(model, checkpointer=saver),
}


def stateless(make: Callable[[Any, Any], Any]) -> Callable[[], float]:
    """A function that runs turn 50 on the messages of the turns before it, and returns its processor milliseconds."""
    model = InstantChat()
    agent = make(model, None)
    messages: list[BaseMessage] = []
    for number in range(1, TURNS):
        messages = agent.invoke({"messages": [*messages, question(number)]})["messages"]

    def run() -> float:
        given = {"messages": [*messages, question(TURNS)]}
        start = time.process_time()
        state = agent.invoke(given)
        took = 1000 * (time.process_time() - start)
        assert (len(state["messages"]), model.shown) == (2 * TURNS, IMAGES)
        return took

    return run


def threaded(make: Callable[[Any, Any], Any]) -> Callable[[], float]:
    """The same on a thread, which is taken up where turn 49 left it."""
    model = InstantChat()
    agent = make(model, InMemorySaver())
    thread: Any = {"configurable": {"thread_id": "1"}}
    for number in range(1, TURNS):
        agent.invoke({"messages": [question(number)]}, thread)
    left = agent.get_state(thread).config

    def run() -> float:
        given = {"messages": [question(TURNS)]}
        start = time.process_time()
        state = agent.invoke(given, left)
        took = 1000 * (time.process_time() - start)
        assert (len(state["messages"]), model.shown) == (2 * TURNS, IMAGES)
        return took

    return run


def main() -> None:
    """Measures, and writes the report to benchmarks/results/."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100, help="measured runs of each side; default: %(default)s")
    runs = parser.parse_args().runs
    rows, worst = [], 0.0
    for kind, made in (("none", stateless), ("in memory", threaded)):
        sides = {name: made(make) for name, make in SIDES.items()}
        took: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(runs + 5):
            for name in list(sides) if number % 2 else reversed(sides):
                took[name].append(sides[name]())
        medians = {name: statistics.median(times[5:]) for name, times in took.items()}
        for name, median in medians.items():
            ratio = median / medians["create_agent"]
            worst = max(worst, ratio)
            rows.append(
                {"checkpointer": kind, "agent": name, "median processor ms": median, "ratio": ratio, "runs": runs}
            )
    report(
        "long_conversation",
        rows,
        note=f"Turn {TURNS} of a conversation with {IMAGES} images and a model that takes no time, interleaved with "
        f"create_agent on the same conversation. Highest ratio to the processor time of create_agent: {worst:.2f}. "
        f"Goal: at most {GOAL:g}.",
    )


if __name__ == "__main__":
    main()
