"""Measure a policy through the graph that agents run: python -m vtagent.training.evaluate --model base

Three modes: `full` shows every image at full resolution at once, `quarter` shows a quarter of the pixels and nothing
more, `zoom` lets the policy decide. Writes summary.json, table.md and samples.jsonl (one line per question and mode).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from statistics import fmean

from langchain_core.messages import HumanMessage

from vtagent.errors import VtagentError
from vtagent.graphs.zoom import ZoomAgent, ZoomContext, create_zoom_agent
from vtagent.images import ImageStore, MemoryImageStore
from vtagent.models.chat import ChatVLM
from vtagent.training.data import Example, read_jsonl, rendered
from vtagent.views import View

MODES = {
    "full": ZoomContext(scale=1.0, max_zooms=0),
    "quarter": ZoomContext(scale=0.5, max_zooms=0),
    "zoom": ZoomContext(scale=0.5, max_zooms=1),
}


@dataclass(frozen=True)
class Outcome:
    """What came of one question in one mode."""

    mode: str
    source: str
    id: str
    question: str
    gold: str
    answer: str | None
    right: bool
    zooms: int
    visual_tokens: int
    full_visual_tokens: int
    seconds: float
    """From the question's start to its answer, with all others under way."""


async def ask(agent: ZoomAgent, store: ImageStore, example: Example, mode: str) -> Outcome:
    """Run the graph once."""
    message = HumanMessage([View(store.put(example.image)).block(), {"type": "text", "text": example.question}])
    start = time.monotonic()
    state = await agent.ainvoke({"messages": [message]}, context=MODES[mode])
    seconds = time.monotonic() - start
    answer, usage = state["answer"], state["usage"]
    return Outcome(
        mode=mode,
        source=example.source,
        id=example.id,
        question=example.question,
        gold=example.answer,
        answer=answer,
        right=answer is not None and answer.strip() in [gold.strip() for gold in example.answers],
        zooms=usage["zooms"],
        visual_tokens=usage["visual_tokens"],
        full_visual_tokens=usage["full_visual_tokens"],
        seconds=seconds,
    )


async def evaluate(
    model: ChatVLM, examples: Iterable[Example], modes: Sequence[str], *, concurrency: int = 64
) -> list[Outcome]:
    """All examples in all modes, `concurrency` runs at a time, with progress on standard error."""
    store = model.store
    agent = create_zoom_agent(model, store=store)
    gate = asyncio.Semaphore(concurrency)
    work = [(example, mode) for mode in modes for example in examples]
    done = 0

    async def one(example: Example, mode: str) -> Outcome:
        nonlocal done
        async with gate:
            outcome = await ask(agent, store, example, mode)
        done += 1
        if done % 50 == 0 or done == len(work):
            print(f"\r{done}/{len(work)} questions", end="", file=sys.stderr, flush=True)
        return outcome

    outcomes = await asyncio.gather(*(one(example, mode) for example, mode in work))
    print(file=sys.stderr)
    return outcomes


def summarize(outcomes: Sequence[Outcome]) -> list[dict[str, object]]:
    """A row for every mode and source: accuracy, share that zooms, visual tokens against full resolution."""

    def key(outcome: Outcome) -> tuple[int, str]:
        return list(MODES).index(outcome.mode), outcome.source

    rows: list[dict[str, object]] = []
    for _, group in groupby(sorted(outcomes, key=key), key):
        part = list(group)
        rows.append(
            {
                "mode": part[0].mode,
                "source": part[0].source,
                "questions": len(part),
                "exact match": fmean(o.right for o in part),
                "zoomed": fmean(o.zooms > 0 for o in part),
                "visual tokens": fmean(o.visual_tokens for o in part),
                "of full resolution": sum(o.visual_tokens for o in part) / sum(o.full_visual_tokens for o in part),
            }
        )
    return rows


def markdown(rows: Sequence[dict[str, object]]) -> str:
    """The summary as a Markdown table."""

    def cell(name: str, value: object) -> str:
        if not isinstance(value, float):
            return str(value)
        return f"{value:.1f}" if name == "visual tokens" else f"{value:.1%}"

    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(cell(name, row[name]) for name in names) + " |" for row in rows]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="zoom", help="bundled name, folder or hub id (default: %(default)s)")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), help="default: all")
    parser.add_argument("--data", type=Path, help="JSONL as `vtagent samples` writes it; absent: fresh documents")
    parser.add_argument("--documents", type=int, default=500, help="fresh documents per print size (default: 500)")
    parser.add_argument("--seed", type=int, default=0, help="of the fresh documents (default: 0)")
    parser.add_argument("--domain", choices=("training", "wide"), default="training", help="how documents look")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    parser.add_argument("--out", type=Path, default=Path("runs/evaluate"), help="folder (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        examples = list(
            read_jsonl(options.data)
            if options.data
            else rendered(options.documents, seed=options.seed, domain=options.domain)
        )
        model = ChatVLM.from_pretrained(
            options.model, store=MemoryImageStore(), temperature=options.temperature, max_tokens=96
        )
        start = time.monotonic()
        outcomes = asyncio.run(evaluate(model, examples, options.modes))
    except VtagentError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    write(outcomes, options.out, wall=time.monotonic() - start, settings=vars(options))


def write(outcomes: Sequence[Outcome], out: Path, *, wall: float, settings: dict[str, object]) -> None:
    """Leave the three files in `out` and print the table."""
    rows = summarize(outcomes)
    out.mkdir(parents=True, exist_ok=True)
    summary = {"settings": {k: str(v) for k, v in settings.items()}, "wall seconds": round(wall, 1), "rows": rows}
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    (out / "table.md").write_text(markdown(rows) + "\n")
    (out / "samples.jsonl").write_text("".join(json.dumps(asdict(o)) + "\n" for o in outcomes))
    print(markdown(rows))
    print(f"{len(outcomes)} questions in {wall:.0f} s; details in {out}")


if __name__ == "__main__":
    main()
