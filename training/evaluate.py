"""Measure a policy on the graph that agents run: accuracy against visual tokens, with intervals and plots.

    python -m vtagent.training.evaluate --model zoom
    python -m vtagent.training.evaluate --model zoom --mix large=2 small=1 --zoom-bias-sweep -4 -2 0 2 4
    python -m vtagent.training.evaluate --model runs/grpo/policy --modes full zoom --data my.jsonl --out runs/mine

Modes: `full` shows every image at full resolution at once, `quarter` only a quarter of the pixels, and `zoom` lets
the policy decide. `forced-zoom` and `forced-direct` take that decision away. --zoom-bias-sweep shifts it and gives the
whole curve of accuracy against cost (see training/measure/modes.py).

The folder --out gets table.md, summary.json (the same with all figures), samples.jsonl (one line per question and
mode, written as answers arrive) and plots. If the command is interrupted, the same command continues. You may add modes
later.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vtagent.errors import DataError, ModelError
from vtagent.graphs.zoom import create_zoom_agent
from vtagent.images import MemoryImageStore
from vtagent.models.chat import ChatVLM
from vtagent.training.command_line import add_grader_options, clean_exit, grader_of
from vtagent.training.data import DRAWN, Example, open_examples
from vtagent.training.durable import write_whole
from vtagent.training.measure.asking import evaluate
from vtagent.training.measure.curves import plot_learning, read_history
from vtagent.training.measure.effects import tool_effects
from vtagent.training.measure.journal import SAMPLES, Journal, digest_of_examples, digest_of_weights, folder_name
from vtagent.training.measure.markdown import effects_markdown, looks_markdown, markdown
from vtagent.training.measure.modes import MODES, biased
from vtagent.training.measure.outcomes import Outcome, wall_seconds
from vtagent.training.measure.summaries import SummaryRow, resolved_mix, summarize
from vtagent.training.named import graph_builder

__all__ = ["MODES", "Outcome", "SummaryRow", "evaluate", "main", "markdown", "summarize", "write"]

_DOMAINS = {
    "training": "rendered",
    "medium": "rendered-medium",
    "wide": "rendered-wide",
    "pages": "pages",
    "pages-wide": "pages-wide",
}
"""The names of fresh documents here, and those of the same documents as data."""


def domain_of(data: str) -> str:
    """The --domain of fresh documents like those that a training draws; "training" for any other data.

    Args:
        data: The name of the training's data.
    """
    return next((domain for domain, name in _DOMAINS.items() if name == data), "training")


def write(
    outcomes: Sequence[Outcome], out: Path, *, settings: Mapping[str, Any], mix: Mapping[str, float] | None = None
) -> list[SummaryRow]:
    """Write summary.json, table.md, samples.jsonl and the plots.

    Args:
        outcomes: At most one for each question and mode.
        out: The folder; made if missing.
        settings: What was measured, for summary.json.
        mix: As for `summarize`.

    Returns:
        The rows of the table.

    Raises:
        DataError: As `summarize`.
    """
    from vtagent.training.measure.plots import plot_accuracy, plot_sweep

    rows = summarize(outcomes, mix=mix)
    effects = tool_effects(outcomes, mix=mix)
    walls = {mode: round(seconds, 2) for mode, seconds in wall_seconds(outcomes).items()}
    out.mkdir(parents=True, exist_ok=True)
    summary = {"settings": dict(settings), "mix": mix, "wall seconds": walls, "rows": [asdict(row) for row in rows]}
    summary["tool effects"] = [asdict(effect) for effect in effects]
    write_whole(out / "summary.json", json.dumps(summary, indent=1, default=str) + "\n")
    parts = [markdown(rows), looks_markdown(rows), effects_markdown(effects), _notes(walls, mix)]
    write_whole(out / "table.md", "\n\n".join(filter(None, parts)) + "\n")
    write_whole(out / SAMPLES, "".join(json.dumps(asdict(outcome)) + "\n" for outcome in outcomes))
    plot_accuracy(rows, out / "accuracy.png")
    plot_sweep(rows, out / "zoom_bias.png")
    return rows


def main(arguments: Sequence[str] | None = None, *, examples: Sequence[Example] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Words of the command line; those of this process if absent.
        examples: The questions, in place of those that the options name.
    """
    parser = _parser()
    with clean_exit(parser):
        _run(parser.parse_args(arguments), examples)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", default="zoom", help="bundled name, folder or hub id (default: %(default)s)")
    add("--modes", nargs="+", choices=MODES, default=["full", "quarter", "zoom"], help="default: full quarter zoom")
    add(
        "--graph",
        metavar="NAME",
        help="measure another graph: package.module:build, file.py:build, or a name in "
        "langgraph.json (default: the zoom graph)",
    )
    add("--zoom-bias-sweep", nargs="+", type=float, default=[], metavar="BIAS", help="also zoom with each of these")
    add("--data", help=".jsonl or .parquet file, folder or hub id (default: fresh documents)")
    add("--columns", nargs="+", default=[], metavar="NAME=COLUMN", help="where --data has image, question, answers, …")
    add("--split", default="test", help="of a hub id or saved folder (default: test)")
    add("--count", type=int, help="use only the first COUNT questions of --data")
    add("--scale", type=float, help="in the modes that offer the tool: share of both sides first shown (default: 0.5)")
    add("--text-first", action="store_true", help="show the question before the image (default: after it)")
    add("--max-zooms", type=int, help="in these modes: views that a run may ask for (default: 1)")
    add("--documents", type=int, default=500, help="fresh documents of each source (default: 500)")
    add("--seed", type=int, default=0, help="seed of the fresh documents (default: 0)")
    add("--domain", choices=_DOMAINS, default="training", help="what fresh documents are (default: %(default)s)")
    add("--mix", nargs="+", metavar="SOURCE=WEIGHT", help="weights of sources in the overall row (default: by size)")
    add_grader_options(parser)
    add("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    add("--max-tokens", type=int, default=96, help="tokens per reply; models that reason need more (default: 96)")
    add("--concurrency", type=int, default=64, help="number of concurrent questions (default: %(default)s)")
    add("--timeout", type=float, help="seconds after which a question counts as failed (default: no limit)")
    add("--history", type=Path, help="folder of a training run, trainer_state.json or CSV: plot its learning curves")
    add("--out", type=Path, help="folder (default: runs/evaluate/, with a name made of the model and the settings)")
    return parser


def _run(options: argparse.Namespace, given: Sequence[Example] | None) -> None:
    mix = _mix(options.mix) if options.mix else None
    if options.documents < 1:
        raise DataError(f"--documents {options.documents}: at least one")
    examples = list(_examples(options) if given is None else given)
    asked = {"scale": options.scale, "max_zooms": options.max_zooms}
    zooming = {name: value for name, value in asked.items() if value is not None}
    if not 0 < zooming.get("scale", 1) <= 1 or zooming.get("max_zooms", 1) < 1:
        raise DataError("--scale must be above 0 and at most 1, --max-zooms at least 1")
    if mix:  # a wrong name fails here, before the long part
        resolved_mix(mix, sorted({example.source for example in examples}))
    settings = {
        "model": str(options.model),
        "weights": digest_of_weights(options.model),
        "examples": digest_of_examples(examples),
        "temperature": options.temperature,
        "max_tokens": options.max_tokens,
        "grader": options.grader,
        "judge": options.judge_model,
        **zooming,
        **({"text_first": True} if options.text_first else {}),
        **({"graph": options.graph} if options.graph else {}),
    }
    out = options.out or Path("runs/evaluate") / folder_name(settings)
    build = graph_builder(options.graph) if options.graph else create_zoom_agent
    grader = grader_of(options, out)
    history = read_history(options.history) if options.history else None
    journal = Journal(out, settings)
    asyncio.run(grader.check())
    model = ChatVLM.from_pretrained(
        options.model,
        image_store=MemoryImageStore(),
        images_first=not options.text_first,
        temperature=options.temperature,
        max_tokens=options.max_tokens,
    )
    modes = [*options.modes, *(biased(value) for value in options.zoom_bias_sweep)]
    limits = {"concurrency": options.concurrency, "timeout": options.timeout, **zooming}
    asyncio.run(evaluate(model, examples, modes, grader=grader, journal=journal, build=build, **limits))
    outcomes = journal.outcomes
    if history and not plot_learning(history, out / "curves.png"):
        print(f"{options.history} has no metrics to plot", file=sys.stderr)
    command = {name: value for name, value in vars(options).items() if value is not None}
    write(outcomes, out, settings={**settings, "command": command}, mix=mix)
    print((out / "table.md").read_text(encoding="utf-8"))
    print(f"Details in {out}")
    failures = [outcome.error for outcome in outcomes if outcome.error is not None]
    if len(failures) == len(outcomes):
        raise ModelError(f"every run failed, the first with {failures[0]}")


def _examples(options: argparse.Namespace) -> Iterable[Example]:
    """The questions that the options name."""
    if options.data:
        return open_examples(options.data, columns=options.columns, split=options.split, count=options.count)
    return DRAWN[_DOMAINS[options.domain]].fresh(options.documents, options.seed)


def _mix(words: Sequence[str]) -> dict[str, float]:
    """Read weights such as `["large=2", "small=1"]`."""
    mix = {}
    for word in words:
        name, _, weight = word.rpartition("=")
        try:
            mix[name] = float(weight)
        except ValueError:
            name = ""
        if not name:
            raise DataError(f"--mix takes SOURCE=WEIGHT, such as large=2, not {word!r}")
    return mix


def _notes(walls: Mapping[str, float], mix: Mapping[str, float] | None) -> str:
    """The text below the table."""
    times = ", ".join(f"{mode} {seconds:.1f} s" for mode, seconds in walls.items())
    parts = ", ".join(f"{source} {weight:g}" for source, weight in mix.items()) if mix else ""
    return f"Wall time: {times}." + (f"\nOverall counts {parts}." if parts else "")


if __name__ == "__main__":
    main()
