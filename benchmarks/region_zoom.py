"""Measures runs that look cheaply first and zoom when they must, against full resolution at once.

    python -m benchmarks.region_zoom
    python -m benchmarks.region_zoom --model zoom --data pages --url http://localhost:8000

Both sides ask the same questions about the same pages, which neither has seen before. The share of runs that zoom is
set by the zoom bias, which acts at the decision alone: +20 in that share of the runs, -20 in the others. Where to look
is the policy's own choice. In this process, the time of an engine is split into encoding images, prefill and decoding.
With --url, a vLLM server that serves the same checkpoint is measured, too; it does not tell the stages apart.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from benchmarks._report import report
from vtagent.graphs.zoom import ZoomAgent, ZoomContext, create_zoom_agent
from vtagent.images import MemoryImageStore
from vtagent.models.chat import ChatVLM
from vtagent.training.data import DRAWN, Example, open_examples
from vtagent.training.measure.outcomes import looks_of
from vtagent.training.run_example import Ending, run_example

GOAL = 1.0
"""A run may take at most this many times as long as full resolution at once."""
SHARES = (0.0, 0.33, 0.8)
BIAS = 20.0
STAGES = ("encoding", "prefill", "decoding")


@dataclass
class Side:
    """What one side has come to."""

    seconds: list[float] = field(default_factory=list)
    """Wall time of all runs, one after the other; one per repeat."""
    together: list[float] = field(default_factory=list)
    """The same, all runs at once."""
    stages: dict[str, list[float]] = field(default_factory=lambda: {stage: [] for stage in STAGES})
    """Seconds of the runs one after the other in each stage."""
    endings: list[Ending] = field(default_factory=list)


@contextmanager
def staged(model: ChatVLM) -> Iterator[dict[str, float]]:
    """Sums up the seconds that the local engine spends in each stage; all 0 for a server.

    The stages are methods of the scheduler's parts. Prefill includes no encoding, since images are encoded before it.
    """
    spent = dict.fromkeys(STAGES, 0.0)
    scheduler: Any = getattr(model.engine, "_scheduler", None)
    if scheduler is None:
        yield spent
        return
    places = {
        "encoding": (scheduler.vision, "encode"),
        "prefill": (scheduler._decoder, "prefill"),
        "decoding": (scheduler._decoder, "step"),
    }

    def timed(stage: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                spent[stage] += time.perf_counter() - start

        return call

    for stage, (owner, name) in places.items():
        setattr(owner, name, timed(stage, getattr(owner, name)))
    try:
        yield spent
    finally:
        for owner, name in places.values():
            delattr(owner, name)


def contexts(share: float | None, count: int) -> list[ZoomContext]:
    """Returns the settings of `count` runs, with the zooms spread evenly; None: full resolution at once."""
    if share is None:
        return [ZoomContext(scale=1.0, max_zooms=0)] * count
    zooms = [int((place + 1) * share + 1e-9) > int(place * share + 1e-9) for place in range(count)]
    return [ZoomContext(zoom_bias=BIAS if zoom else -BIAS) for zoom in zooms]


async def measure(
    model: ChatVLM, agent: ZoomAgent, pages: Sequence[Example], share: float | None, side: Side, *, together: bool
) -> None:
    """Asks all questions with cold caches, and adds the time to a side."""
    model.engine.forget()
    asked = list(zip(pages, contexts(share, len(pages)), strict=True))
    with staged(model) as spent:
        start = time.perf_counter()
        if together:
            runs = await asyncio.gather(*(run_example(agent, page, own, model) for page, own in asked))
        else:
            runs = [await run_example(agent, page, own, model) for page, own in asked]
        seconds = time.perf_counter() - start
    endings = []
    for run in runs:
        if isinstance(run.left, Exception):
            raise run.left
        endings.append(run.left)
    if together:
        side.together.append(seconds)
        return
    side.seconds.append(seconds)
    side.endings += endings
    for stage, value in spent.items():
        side.stages[stage].append(value)


def compare(model: ChatVLM, data: str, *, runs: int, repeats: int, shares: Sequence[float]) -> list[dict[str, Any]]:
    """Returns the rows of the report: medians over the repeats. The sides take turns.

    Args:
        model: The policy.
        data: A name in `DRAWN`.
        runs: Questions of each repeat.
        repeats: Measured repeats; one more warms up.
        shares: Shares of runs that zoom.
    """
    agent = create_zoom_agent(model, image_store=model.image_store)
    sides: dict[float | None, Side] = {share: Side() for share in (None, *shares)}
    for repeat in range(repeats + 1):
        pages = list(open_examples(data, count=runs, seed=7000 + repeat))
        for share, side in sides.items():
            kept = side if repeat else Side()
            for together in (False, True):
                asyncio.run(measure(model, agent, pages, share, kept, together=together))
    full = sides[None]
    staged_at_all = any(sum(values) for values in full.stages.values())
    rows = []
    for share, side in sides.items():
        usages = [ending.usage for ending in side.endings]
        looks = [looks_of(ending.views, None) for ending in side.endings]
        zooms = sum(usage["zooms"] for usage in usages)
        row: dict[str, Any] = {
            "engine": "in process" if staged_at_all else "vLLM",
            "first": "full resolution" if share is None else "low view",
            "zooms": f"{zooms / len(usages):.0%}",
            "area of a zoom": f"{sum(look.area for look in looks) / zooms:.0%}" if zooms else "–",
            "visual tokens": statistics.mean(usage["visual_tokens"] for usage in usages),
            "ms a run": 1000 * statistics.median(side.seconds) / runs,
            "÷ full": statistics.median(side.seconds) / statistics.median(full.seconds),
        }
        for stage in STAGES:
            row[f"{stage} (ms)"] = 1000 * statistics.median(side.stages[stage]) / runs if staged_at_all else "–"
        row["ms a run, together"] = 1000 * statistics.median(side.together) / runs
        row["÷ full, together"] = statistics.median(side.together) / statistics.median(full.together)
        rows.append(row)
    return rows


def command_line() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", default="zoom", help="a bundled policy, or the folder or hub id of a checkpoint")
    add("--data", default="pages", choices=DRAWN, help="default: %(default)s")
    add("--runs", type=int, default=30, help="questions on each side; default: %(default)s")
    add("--repeats", type=int, default=3, help="default: %(default)s")
    add("--shares", type=float, nargs="+", default=SHARES, help="shares of runs that zoom; default: 0 0.33 0.8")
    add("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    add("--url", help="a vLLM server with the same checkpoint, which is measured, too")
    return parser


def main() -> None:
    """Measures, and writes the report to benchmarks/results/."""
    options = command_line().parse_args()
    given: dict[str, Any] = {"temperature": options.temperature, "max_tokens": 64}
    models = [ChatVLM.from_pretrained(options.model, image_store=MemoryImageStore(), **given)]
    if options.url:
        models.append(ChatVLM.from_server(options.url, options.model, image_store=MemoryImageStore(), **given))
    rows: list[dict[str, Any]] = []
    for model in models:
        rows += compare(model, options.data, runs=options.runs, repeats=options.repeats, shares=options.shares)
        model.engine.close()
    note = (
        f"{options.runs} questions about fresh {options.data} with {options.model}, at temperature "
        f"{options.temperature:g}: medians of {options.repeats}, one run after the other and all together. Goal: at "
        f"most {GOAL:g} times as long as full resolution at once."
    )
    report("region_zoom", rows, note=note)


if __name__ == "__main__":
    main()
