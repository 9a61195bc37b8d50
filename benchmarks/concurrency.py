"""Measures how much faster 64 questions are when they are asked together than one after the other.

    python -m benchmarks.concurrency [--model zoom] [--runs 64] [--repeats 3] [--dtypes float32 bfloat16]

Both sides run the same compiled graph over the same documents with greedy decoding. Each side uses a new engine, so
neither profits from the other's caches. Servers are left out, since they do their own batching.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import random
import statistics
import time
from typing import Any

from langchain_core.messages import HumanMessage

from benchmarks._report import report
from vtagent.graphs.zoom import create_zoom_agent
from vtagent.images import MemoryImageStore
from vtagent.models.chat import ChatVLM
from vtagent.training.documents.render import PrintSize, render_document
from vtagent.views import View

GOAL = 4.0
"""Runs together must be at least this many times as fast."""


def questions(count: int, store: MemoryImageStore) -> list[HumanMessage]:
    """Returns one question about each of `count` documents, in large and small print in turn."""
    rng = random.Random("benchmarks/concurrency")
    asked = []
    sizes: tuple[PrintSize, PrintSize] = ("large", "small")
    for number in range(count):
        document = render_document(f"benchmarks/concurrency/{number}", print_size=sizes[number % 2])
        png = io.BytesIO()
        document.image.save(png, "png")
        question = {"type": "text", "text": rng.choice(document.fields).question(rng)}
        asked.append(HumanMessage([View(store.put(png.getvalue())).block(), question]))
    return asked


async def measure(model_name: str, count: int, *, together: bool, dtype: str) -> tuple[float, list[dict[str, Any]]]:
    """Measures all runs on a new engine, after one run on another document to warm up.

    Args:
        model_name: A bundled policy, a folder or a hub id.
        count: Number of questions.
        together: Whether to ask all questions at once instead of one after the other.
        dtype: Type of the weights, such as "float32".

    Returns:
        (seconds for all runs, their final states).
    """
    store = MemoryImageStore()
    *asked, warm_up = questions(count + 1, store)
    model = ChatVLM.from_pretrained(model_name, image_store=store, temperature=0.0, dtype=dtype)
    agent = create_zoom_agent(model)
    await agent.ainvoke({"messages": [warm_up]})
    start = time.perf_counter()
    if together:
        states = await asyncio.gather(*(agent.ainvoke({"messages": [question]}) for question in asked))
    else:
        states = [await agent.ainvoke({"messages": [question]}) for question in asked]
    seconds = time.perf_counter() - start
    model.engine.close()
    return seconds, states


def compare(model_name: str, dtype: str, *, count: int, repeats: int) -> list[dict[str, Any]]:
    """Returns the rows of the report: medians over the repeats. The two sides take turns."""
    sides: dict[str, list[tuple[float, list[dict[str, Any]]]]] = {"one after the other": [], "together": []}
    for _ in range(repeats):
        for how, side in sides.items():
            side.append(asyncio.run(measure(model_name, count, together=how == "together", dtype=dtype)))
    seconds = {how: statistics.median(took for took, _ in side) for how, side in sides.items()}
    alone, *_ = (states for _, states in sides["one after the other"])
    rows = []
    for how, side in sides.items():
        states = side[0][1]
        rows.append(
            {
                "dtype": dtype,
                "runs": how,
                "seconds": seconds[how],
                "times as fast": seconds["one after the other"] / seconds[how],
                "same answers": sum(one["answer"] == other["answer"] for one, other in zip(alone, states, strict=True)),
                "zooms": sum(state["usage"]["zooms"] for state in states),
                "model turns": sum(state["usage"]["turns"] for state in states),
            }
        )
    return rows


def main() -> None:
    """Measures, and writes the report to benchmarks/results/."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="zoom", help="a bundled policy, or the folder or hub id of a checkpoint")
    parser.add_argument("--runs", type=int, default=64, help="questions on each side; default: %(default)s")
    parser.add_argument("--repeats", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], help="default: %(default)s")
    options = parser.parse_args()
    rows = []
    for dtype in options.dtypes:
        rows += compare(options.model, dtype, count=options.runs, repeats=options.repeats)
    note = (
        f"{options.runs} greedy runs of the graph with {options.model}, medians of {options.repeats}. Goal: together "
        f"at least {GOAL:.0f} times as fast, with the same answers."
    )
    report("concurrency", rows, note=note)


if __name__ == "__main__":
    main()
