"""64 questions asked together against 64 asked one after the other: how much batching behind one graph is worth.

    python -m benchmarks.concurrency [--model zoom] [--runs 64] [--repeats 3]

Both sides run the same compiled graph over the same documents with greedy decoding, each on an engine of its own that
has seen none of them, so that neither profits from the other's caches. Left out: servers, whose batching is not ours.
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
from vtagent.training.pages.documents import PrintSize, render_document
from vtagent.views import View

GOAL = 4.0
"""Together must be at least this many times as fast."""


def questions(count: int, store: MemoryImageStore) -> list[HumanMessage]:
    """One question about each of `count` documents, large and small print in turn."""
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


async def measure(model_name: str, count: int, *, together: bool) -> tuple[float, list[dict[str, Any]]]:
    """Seconds for all runs, and their final states, on a fresh engine warmed up on another document."""
    store = MemoryImageStore()
    *asked, warm_up = questions(count + 1, store)
    model = ChatVLM.from_pretrained(model_name, store=store, temperature=0.0)
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


def compare(model_name: str, *, count: int, repeats: int) -> tuple[list[dict[str, Any]], str]:
    """The report's rows and note: medians over the repeats, whose two sides take turns."""
    apart, together = [], []
    for _ in range(repeats):
        apart.append(asyncio.run(measure(model_name, count, together=False)))
        together.append(asyncio.run(measure(model_name, count, together=True)))
    rows: list[dict[str, Any]] = []
    for how, side in [("one after the other", apart), ("together", together)]:
        states = side[0][1]
        rows.append(
            {
                "runs": how,
                "seconds": statistics.median(seconds for seconds, _ in side),
                "runs per second": count / statistics.median(seconds for seconds, _ in side),
                "zooms": sum(state["usage"]["zooms"] for state in states),
                "model turns": sum(state["usage"]["turns"] for state in states),
            }
        )
    ratio = rows[0]["seconds"] / rows[1]["seconds"]
    same = sum(one["answer"] == other["answer"] for one, other in zip(apart[0][1], together[0][1], strict=True))
    note = (
        f"{count} greedy runs of the graph with {model_name}, medians of {repeats}: together they are {ratio:.1f} "
        f"times as fast (asked: {GOAL:.0f}), and {same} of {count} answers are the same."
    )
    return rows, note


def main() -> None:
    """Measure, and write the report to benchmarks/results/."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="zoom", help="a bundled policy, a checkpoint's folder or hub id")
    parser.add_argument("--runs", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rows, note = compare(options.model, count=options.runs, repeats=options.repeats)
    report("concurrency", rows, note=note)


if __name__ == "__main__":
    main()
