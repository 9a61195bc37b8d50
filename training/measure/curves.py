"""Learning curves of a training run, read from its trainer_state.json or a CSV file."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from vtagent.errors import DataError
from vtagent.training.durable import checkpoints
from vtagent.training.measure.plots import Series, plot_curves

History = Sequence[Mapping[str, float]]

_NOT_SOURCES = {"all", "right", "wrong", "direct", "zoomed"}
"""Words after the slash in metrics that do not belong to a source."""


def read_history(path: Path) -> list[dict[str, float]]:
    """Read the logged entries of a run.

    Args:
        path: A trainer_state.json, a CSV file with a column `step`, or the folder of a run. In a folder, this reads the
            trainer_state.json there, or that of the last checkpoint.

    Returns:
        One entry per line of the log, with its `step`. Values that are not numbers are left out.

    Raises:
        DataError: There is no such file, or it is something else.
    """
    if path.is_dir():
        folders = [path, *(checkpoint for _, checkpoint in reversed(checkpoints(path)))]
        states = [folder / "trainer_state.json" for folder in folders]
        path = next((state for state in states if state.exists()), states[0])
    try:
        text = path.read_text(encoding="utf-8")
        rows = list(csv.DictReader(text.splitlines())) if path.suffix == ".csv" else json.loads(text)["log_history"]
        entries = [
            {name: number for name, value in row.items() if (number := _number(value)) is not None} for row in rows
        ]
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: neither a trainer's state with a log_history nor a CSV file") from error
    if not (entries := [entry for entry in entries if "step" in entry]):
        raise DataError(f"{path}: nothing was logged there")
    return entries


def curve(history: History, name: str) -> Series | None:
    """A metric over the steps at which it was logged. The later of two entries for a step counts.

    Args:
        history: The log.
        name: The metric.

    Returns:
        The series, or None if the metric was never logged.
    """
    points = {entry["step"]: entry[name] for entry in history if name in entry}
    steps = sorted(points)
    return Series(steps, [points[step] for step in steps]) if steps else None


def by_source(history: History, metric: str) -> dict[str, Series]:
    """The curves of a metric that is logged as `metric/source`, by source."""
    names = sorted({name for entry in history for name in entry if name.startswith(f"{metric}/")})
    found = {name.removeprefix(f"{metric}/"): curve(history, name) for name in names}
    return {source: series for source, series in found.items() if series and source not in _NOT_SOURCES}


def plot_learning(history: History, path: Path) -> bool:
    """Plot the share that zooms and the accuracy per source, and tokens and format for all questions.

    Args:
        history: The log of a run.
        path: The PNG file to write.

    Returns:
        Whether a file was written. False: none of this was logged.
    """
    wholes = {"visual tokens, of full": "visual_tokens/of_full", "well-formed replies": "format/well_formed"}
    panels = {
        "share that zooms": by_source(history, "zoom"),
        "accuracy": by_source(history, "accuracy"),
        "zooms that hold the value": by_source(history, "regions/holding"),
        "all questions": {label: series for label, name in wholes.items() if (series := curve(history, name))},
    }
    panels = {title: lines for title, lines in panels.items() if lines}
    if panels:
        plot_curves(panels, path, y="% of the step's rollouts")
    return bool(panels)


def _number(value: object) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type] # anything may have been logged
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
