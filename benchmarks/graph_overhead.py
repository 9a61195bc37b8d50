"""Measures the time that the graph itself takes in a two-turn run, beside LangChain's `create_agent` doing the same.

    python -m benchmarks.graph_overhead [--runs 300]

The model takes no time, and no view is rendered. Both sides show a low view, call `zoom_image` once and answer, with
the same image store and the same tool. Runs of the two sides alternate, and medians are compared. A second pair of rows
includes LangChain's own work around each call of a chat model (callbacks, and formatting messages for tracers). That
work is part of the model's cost and the same for both sides.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from PIL import Image

from benchmarks._instant import Instant
from benchmarks._report import report
from vtagent.graphs.zoom import create_zoom_agent
from vtagent.images import MemoryImageStore
from vtagent.prompts import zoom_prompt
from vtagent.tools.zoom_image import create_zoom_tool
from vtagent.views import View
from vtagent.visual_tokens import QWEN3_VL

GOAL_MS = 5.0
"""Longest time for a two-turn run, in milliseconds; it must not exceed that of `create_agent` either."""


class InstantChat(Instant):
    """A chat model that first zooms and then answers, without computing anything."""

    resolves_images: bool = True

    def reply(self, messages: list[BaseMessage]) -> AIMessage:
        """As `Instant.reply`."""
        if isinstance(messages[-1], ToolMessage):
            said = AIMessage("<think>Now I can read it.</think><answer>48.10</answer>")
        else:
            said = AIMessage("<think>Too small.</think>", tool_calls=[{"name": "zoom_image", "args": {}, "id": "1"}])
        return said


class InstantlyAnswering(InstantChat):
    """The same model without LangChain's work around a call."""

    def invoke(self, input: Any, config: Any = None, *, stop: Any = None, **kwargs: Any) -> AIMessage:
        """Returns the next reply at once."""
        reply = self._generate(input).generations[0].message
        assert isinstance(reply, AIMessage)
        return reply


def timed(agent: Any, image: dict[str, Any]) -> tuple[float, float]:
    """Runs an agent once and checks that it zoomed.

    Returns:
        (wall time, processor time), in milliseconds.
    """
    question = HumanMessage([image, {"type": "text", "text": "What is the total?"}])
    wall, cpu = time.perf_counter(), time.process_time()
    state = agent.invoke({"messages": [question]})
    took = 1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - cpu)
    assert [message.type for message in state["messages"]] == ["human", "ai", "tool", "ai"]
    assert state["messages"][2].status == "success"
    return took


def interleaved(sides: dict[str, tuple[Any, dict[str, Any]]], runs: int) -> dict[str, list[tuple[float, float]]]:
    """Runs both sides in turns, after some runs to warm up.

    Args:
        sides: Name → (agent, image block).
        runs: Number of measured runs of each side.

    Returns:
        Name → (wall time, processor time) of each run, in milliseconds.
    """
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for number in range(runs + 20):
        for name in list(sides) if number % 2 else reversed(sides):
            took[name].append(timed(*sides[name]))
    return {name: times[20:] for name, times in took.items()}


def main() -> None:
    """Measures, and writes the report to benchmarks/results/."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=300, help="measured runs of each side; default: %(default)s")
    runs = parser.parse_args().runs
    store, png = MemoryImageStore(), io.BytesIO()
    Image.new("RGB", (1280, 960), "white").save(png, "png")
    ref = store.put(png.getvalue())
    tool = create_zoom_tool(image_store=store, vision=QWEN3_VL)
    prompt = zoom_prompt(tool_name="zoom_image", scale=0.5, max_zooms=1)
    rows, ratios = [], []
    for kind, calls in ((InstantlyAnswering, "return at once"), (InstantChat, "go through BaseChatModel")):
        model = kind(profile={"image_tool_message": True})
        sides = {
            "create_zoom_agent": (create_zoom_agent(model, image_store=store, vision=QWEN3_VL), View(ref).block()),
            "create_agent": (create_agent(model, [tool], system_prompt=prompt), View(ref, scale=0.5).block()),
        }
        took = interleaved(sides, runs)
        wall = {name: [w for w, _ in times] for name, times in took.items()}
        ratios.append(
            statistics.median(o / t for o, t in zip(wall["create_zoom_agent"], wall["create_agent"], strict=True))
        )
        rows += [
            {
                "agent": name,
                "model calls": calls,
                "median ms": statistics.median(wall[name]),
                "median processor ms": statistics.median(c for _, c in took[name]),
                "fastest tenth ms": statistics.quantiles(wall[name], n=10)[0],
                "runs": runs,
            }
            for name in sides
        ]
    report(
        "graph_overhead",
        rows,
        note="A two-turn run (low view, one zoom, answer) with a model that takes no time, interleaved with "
        f"create_agent doing the same. Median paired ratio of the graph's time to create_agent's: {ratios[0]:.2f}, and "
        f"{ratios[1]:.2f} with LangChain's own work around each call of the model. Goal: at most {GOAL_MS:g} ms, and a "
        "ratio of at most 1.",
    )


if __name__ == "__main__":
    main()
