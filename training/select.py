r"""Choose questions to train on by what the policy itself can do.

    python -m vtagent.training.select --out DIR

The policy answers every question eight times with a quarter of the pixels and eight times at full resolution, at
temperature 1, in runs of the graph that agents use. Two kinds are kept (VisionThink, arXiv:2507.13348, section 3):

    low resolution suffices   all answers are right at both resolutions
    needs full resolution     at least six more are right at full resolution than at low

All other questions teach nothing: they are too hard, or the answers are too noisy. The folder --out gets selected.jsonl
with images/, summary.json, histogram.png, and trials.jsonl with one line for each question tried. To train on equally
many of each kind:
`python -m vtagent.training.grpo --data DIR/selected.jsonl --columns source=kind --mix '*=1' …`

    python -m vtagent.training.select --data rendered --count 300 --out runs/select
    python -m vtagent.training.select --model Qwen/Qwen2.5-VL-7B-Instruct --data Senqiao/VisionThink-General-Train \
        --grader exact+judge --judge-model Qwen/Qwen3-1.7B --judge-url http://localhost:8000/v1 \
        --max-tokens 2048 --want 10000 --out data/selected

If the command is interrupted or killed, the same command continues. On several GPUs, start one command on each, with
--shard 1/8, --shard 2/8, … and the same --out. The last one to end writes what all of them have found.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
from collections import Counter
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from vtagent.errors import DataError
from vtagent.models.chat import ChatVLM
from vtagent.training.command_line import add_grader_options, clean_exit, grader_of
from vtagent.training.data import open_examples
from vtagent.training.durable import write_whole
from vtagent.training.measure.journal import digest_of_weights
from vtagent.training.measure.plots import figure
from vtagent.training.rl.collect import WorkingStore
from vtagent.training.selection.runner import TrialRunner, select
from vtagent.training.selection.trials import (
    NEEDS_FULL,
    SUFFICES,
    Trial,
    TrialLog,
    kind_of,
    write_selected,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Words of the command line; those of this process if absent.
    """
    parser = _parser()
    with clean_exit(parser):
        _run(parser.parse_args(arguments))


def _run(options: argparse.Namespace) -> None:
    if not 1 <= options.gain <= options.samples:
        raise DataError(f"--gain {options.gain} can never be reached with {options.samples} samples")
    examples = open_examples(
        options.data, columns=options.columns, split=options.split, count=options.count, seed=options.seed
    )
    settings = {
        "model": str(options.model),
        "weights": digest_of_weights(options.model),
        **{name: getattr(options, name) for name in ("data", "columns", "split", "seed", "samples", "temperature")},
        **{name: getattr(options, name) for name in ("max_tokens", "grader", "judge_model")},
    }
    part, parts = options.shard
    log = TrialLog(options.out, settings, name="trials.jsonl" if parts == 1 else f"trials-{part}-of-{parts}.jsonl")
    grader = grader_of(options, options.out)
    asyncio.run(grader.check())
    model = ChatVLM.from_pretrained(
        options.model, image_store=WorkingStore(), temperature=options.temperature, max_tokens=options.max_tokens
    )
    runner = TrialRunner(
        model,
        grader,
        samples=options.samples,
        seed=options.seed,
        limit=options.timeout,
        concurrency=options.concurrency,
    )
    try:
        failures = select(
            runner,
            examples,
            log,
            gain=options.gain,
            want=options.want,
            shard=options.shard,
            batch=max(1, options.concurrency // options.samples),
        )
    finally:
        runner.close()
    # Opened again, since other shards may have added trials.
    summary = write(TrialLog(options.out, settings), gain=options.gain, want=options.want, failures=failures)
    for source, counts in summary["by source"].items():
        print(f"{source}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    print(
        f"{sum(summary['selected'].values())} of {summary['tried']} questions are in {options.out / 'selected.jsonl'}"
    )
    if summary["failed"]:
        print(f"not tried, to be tried again by the same command: {counted(Counter(summary['failed']))}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", default="base", help="bundled name, folder or hub id of the policy to be trained (default: base)")
    add(
        "--data",
        default="rendered",
        help="rendered, a .jsonl or .parquet file, a folder, or a hub id (default: rendered)",
    )
    add(
        "--columns",
        nargs="+",
        default=[],
        metavar="NAME=COLUMN",
        help="names of its columns, if they are not found: image, question, answers, source, id",
    )
    add("--split", default="train", help="of a hub id or saved folder (default: train)")
    add("--count", type=int, help="try only the first COUNT questions (default: all; 1000 rendered pages)")
    add("--want", type=int, help="stop when WANT of each kind are found (the paper kept 10,000)")
    add("--samples", type=int, default=8, help="answers at each resolution (default: 8, as the paper)")
    add("--gain", type=int, default=6, help="full resolution is needed if GAIN more are right there (default: 6)")
    add("--temperature", type=float, default=1.0, help="temperature of the answers (default: 1)")
    add("--max-tokens", type=int, default=512, help="tokens per reply (default: 512)")
    add_grader_options(parser)
    add("--seed", type=int, default=0, help="seed of rendered pages, the order, and the answers (default: 0)")
    add("--timeout", type=float, default=600.0, help="seconds that a run may take (default: 600)")
    add("--concurrency", type=int, default=256, help="number of concurrent runs (default: 256)")
    add("--shard", type=_shard, default=(1, 1), metavar="I/N", help="do the I-th of N parts of the work")
    add("--out", type=Path, default=Path("runs/select"), help="folder (default: %(default)s)")
    return parser


def _shard(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is no part such as 3/8")
    return int(found[1]), int(found[2])


def write(log: TrialLog, *, gain: int, want: int | None, failures: Counter[str]) -> dict[str, Any]:
    """Write selected.jsonl, summary.json and histogram.png to the folder of the log.

    Args:
        log: The trials.
        gain: See `kind_of`.
        want: At most this many questions of each kind. None: all.
        failures: Why questions could not be tried, and how many.

    Returns:
        The contents of summary.json.

    Raises:
        DataError: No question was tried.
    """
    trials = list(log.trials.values())
    if not trials:
        raise DataError(f"no question could be tried; {counted(failures)}")
    selected = log.selected(gain, want)
    write_selected(log.folder / "selected.jsonl", selected)
    sources = sorted({trial.source for trial in trials})
    summary = {
        "settings": log.settings,
        "gain": gain,
        "tried": len(trials),
        "selected": {kind: sum(found == kind for found, _ in selected) for kind in (SUFFICES, NEEDS_FULL)},
        "by source": {
            source: {
                "tried": sum(trial.source == source for trial in trials),
                **{kind: sum((k, t.source) == (kind, source) for k, t in selected) for kind in (SUFFICES, NEEDS_FULL)},
            }
            for source in sources
        },
        "failed": dict(failures),
    }
    write_whole(log.folder / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    plot(trials, gain, log.folder / "histogram.png")
    return summary


def plot(trials: Sequence[Trial], gain: int, path: Path) -> None:
    """Plot the number of questions by right answers at each resolution, and mark those that were selected.

    Args:
        trials: All trials.
        gain: See `kind_of`.
        path: The PNG file to write.
    """
    from matplotlib.patches import Rectangle

    samples = max(trial.samples for trial in trials)
    counts = Counter((trial.full, trial.low) for trial in trials)
    dark = max(counts.values()) / 4
    scores = range(samples + 1)
    with figure(2, path, width=5.5, height=4.1) as (cells, bars):
        cells.imshow(
            [[counts[full, low] ** 0.5 for low in scores] for full in scores], origin="lower", cmap="Greys", vmin=0
        )
        cells.grid(visible=False)
        for full, low in product(scores, scores):
            if count := counts[full, low]:
                colour = "white" if count > dark else "black"
                cells.text(low, full, str(count), ha="center", va="center", fontsize=7, color=colour)
            if (kind := kind_of(low, full, samples, gain)) is not None:
                edge = "tab:blue" if kind == SUFFICES else "tab:orange"
                cells.add_patch(Rectangle((low - 0.5, full - 0.5), 1, 1, fill=False, edgecolor=edge, linewidth=2))
        cells.set(xlabel="right answers at low resolution", ylabel="right answers at full resolution")
        cells.set(xticks=scores, yticks=scores, title=f"{len(trials)} questions")
        gains = Counter(trial.full - trial.low for trial in trials)
        span = range(-samples, samples + 1)
        colours = ["tab:orange" if difference >= gain else "lightgrey" for difference in span]
        bars.bar(span, [gains[difference] for difference in span], color=colours)
        suffices = sum(kind_of(trial.low, trial.full, samples, gain) == SUFFICES for trial in trials)
        bars.bar([0], [suffices], color="tab:blue", label=f"{SUFFICES}: {suffices}")
        needs = sum(count for difference, count in gains.items() if difference >= gain)
        bars.bar([0], [0], color="tab:orange", label=f"{NEEDS_FULL}: {needs}")
        bars.set(xlabel="right at full resolution minus right at low", ylabel="questions", title="what is kept of them")
        bars.xaxis.get_major_locator().set_params(integer=True)
        bars.legend()


def counted(failures: Counter[str]) -> str:
    """The five most common reasons, on one line."""
    return "; ".join(f"{count} × {reason}" for reason, count in failures.most_common(5)) or "there were none"


if __name__ == "__main__":
    main()
