"""Compare penalties: run the same training under several of them, with several seeds each.

    python -m vtagent.training.ablation --config training/recipes/tiny.yaml
    python -m vtagent.training.ablation --config training/recipes/tiny.yaml --penalties off paper --seeds 0

Every run is `python -m vtagent.training.grpo` with the recipe and with any further setting that you give here. Each run
gets a folder in --out. After each run, table.md, summary.json and zoomed.png in --out are updated: they show the share
that zooms against training steps. The first seed of every penalty comes before the second seed of any. Interrupt the
command at any moment; the same command continues.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

from vtagent.errors import SettingsError
from vtagent.training.command_line import clean_exit
from vtagent.training.durable import write_whole
from vtagent.training.grpo import remember
from vtagent.training.measure.curves import History, by_source, curve, read_history
from vtagent.training.measure.markdown import markdown_table
from vtagent.training.measure.plots import Series, plot_curves
from vtagent.training.rewards import PENALTIES

COMPARED = ("off", "always", "paper", "reference")
_OURS = ("--output_dir", "--seed", "--penalty", "--config")

Runs = Mapping[str, Sequence[History]]
"""{penalty: the log of each seed's run}."""

WINDOW = 5
"""Steps per moving average. A step has only some dozens of rollouts, so its share is noisy."""

_STOPS = 5
"""Columns of the table: points in training, including its beginning and its end."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Words of the command line; those of this process if absent.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--config", type=Path, required=True, help="recipe that all runs share")
    add("--penalties", nargs="+", choices=PENALTIES, default=COMPARED, help=f"default: {' '.join(COMPARED)}")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    add("--out", type=Path, default=Path("runs/ablation"), help="folder (default: %(default)s)")
    options, others = parser.parse_known_args(arguments)
    with clean_exit(parser):
        _run(options, others)


def _run(options: argparse.Namespace, others: Sequence[str]) -> None:
    if taken := [word for word in others if word.partition("=")[0] in _OURS]:
        raise SettingsError(f"{taken[0]} is set for each run; use --seeds, --penalties and --out")
    try:
        recipe = options.config.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{options.config}: {error.strerror}") from error
    remember({"recipe": recipe, "settings": list(others)}, options.out, going_on=True)
    plan = [(penalty, seed) for seed in dict.fromkeys(options.seeds) for penalty in dict.fromkeys(options.penalties)]
    for number, (penalty, seed) in enumerate(plan, 1):
        folder = options.out / f"{penalty}-{seed}"
        if not finished(folder):
            print(f"run {number} of {len(plan)}: penalty {penalty}, seed {seed}", file=sys.stderr, flush=True)
            _train(options.config, penalty, seed, folder, others)
        runs: dict[str, list[History]] = {own: [] for own in options.penalties}
        for own, own_seed in plan:
            if finished(made := options.out / f"{own}-{own_seed}"):
                runs[own].append(read_history(made / "trainer_state.json"))
        report(runs, options.out)
    print((options.out / "table.md").read_text(encoding="utf-8"))
    print(f"Details in {options.out}")


def finished(folder: Path) -> bool:
    """Whether the folder of a run holds its last step. A state that is not whole JSON counts as unfinished."""
    try:
        state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return bool(state["global_step"] >= state["max_steps"])


def report(runs: Runs, out: Path) -> None:
    """Write table.md, summary.json and zoomed.png, which has a panel per source and a line with a band per penalty.

    Args:
        runs: The finished runs.
        out: The folder to write to.
    """
    known = {penalty: histories for penalty, histories in runs.items() if histories}
    count = "\n".join(f"{penalty}: {len(histories)} seeds" for penalty, histories in known.items())
    write_whole(out / "table.md", f"{table(known)}\n\n{count}\n")
    shares = zoom_shares(known)
    write_whole(out / "summary.json", json.dumps({"share that zooms": shares}, indent=1, default=asdict) + "\n")
    panels = {f"share that zooms, {source}": lines for source, lines in shares.items()}
    plot_curves(panels, out / "zoomed.png", y=f"% of rollouts, mean of {WINDOW} steps")


def _train(config: Path, penalty: str, seed: int, folder: Path, others: Sequence[str]) -> None:
    """Make one run in a process of its own.

    Raises:
        SettingsError: The run failed; its own message says why.
        KeyboardInterrupt: The run was interrupted.
    """
    command = [sys.executable, "-m", "vtagent.training.grpo", "--config", str(config)]
    command += ["--output_dir", str(folder), "--penalty", penalty, "--seed", str(seed)]
    command += ["--evaluate_documents", "0", "--log_rollouts", "false", *others]
    status = subprocess.run(command, check=False).returncode
    if status:
        raise SettingsError(f"the run in {folder} ended with status {status}")
    if not finished(folder):
        raise KeyboardInterrupt


def smoothed(series: Series, window: int = WINDOW) -> Series:
    """The moving average of a series.

    Args:
        series: The series.
        window: Steps per average: each step and those before it. The first steps have fewer.
    """
    means = [fmean(series.y[max(0, end - window) : end]) for end in range(1, len(series.y) + 1)]
    return Series(series.x, means)


def over_seeds(curves: Sequence[Series]) -> Series:
    """The mean of several curves at the steps that all of them have, with the lowest and the highest as a band."""
    values = [dict(zip(own.x, own.y, strict=True)) for own in curves]
    steps = sorted(set.intersection(*(set(own) for own in values)))
    at = [[own[step] for own in values] for step in steps]
    return Series(steps, [fmean(own) for own in at], [min(own) for own in at], [max(own) for own in at])


def zoom_shares(runs: Runs) -> dict[str, dict[str, Series]]:
    """{source: {penalty: the share that zooms against steps}}, smoothed and averaged over seeds."""
    shares: dict[str, dict[str, Series]] = {}
    for penalty, histories in runs.items():
        found = [by_source(history, "zoom") for history in histories]
        for source in sorted({source for own in found for source in own}):
            curves = [smoothed(own[source]) for own in found if source in own]
            shares.setdefault(source, {})[penalty] = over_seeds(curves)
    return shares


def table(runs: Runs) -> str:
    """A Markdown table with a line per penalty and source: the share that zooms at evenly spaced steps, and results.

    A figure over several seeds is their mean, followed by the lowest and the highest.
    """
    shares = zoom_shares(runs)
    steps = sorted({step for own in shares.values() for series in own.values() for step in series.x})
    stops = _stops(steps)
    head = ["penalty", "source", *(f"step {step:g}" for step in stops), "right at the end", "tokens of full"]
    rows = []
    for penalty, histories in runs.items():
        tokens = _end([curve(history, "visual_tokens/of_full") for history in histories])
        for source in (source for source in shares if penalty in shares[source]):
            right = _end([by_source(history, "accuracy").get(source) for history in histories])
            cells = [_cell(shares[source][penalty], step) for step in stops]
            rows.append([penalty, source, *cells, right, tokens])
    return markdown_table(head, rows)


def _stops(steps: Sequence[float]) -> list[float]:
    """At most `_STOPS` evenly spaced steps; the first is the first with a full window."""
    if len(steps) <= _STOPS:
        return list(steps)
    first = WINDOW - 1
    span = len(steps) - 1 - first
    return [steps[first + round(span * stop / (_STOPS - 1))] for stop in range(_STOPS)]


def _end(curves: Sequence[Series | None]) -> str:
    """The last values of the curves, as a cell."""
    known = [smoothed(own) for own in curves if own is not None]
    if not known:
        return "–"
    return _cell(over_seeds([Series([0], own.y[-1:]) for own in known]), 0)


def _cell(series: Series, step: float) -> str:
    """The value at a step in percent, with its band unless that is narrow."""
    if step not in series.x:
        return "–"
    place = list(series.x).index(step)
    low, value, high = (100 * side[place] for side in (series.low, series.y, series.high))
    return f"{value:.0f} %" if high - low < 0.5 else f"{value:.0f} % ({low:.0f}–{high:.0f})"


if __name__ == "__main__":
    main()
