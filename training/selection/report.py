"""The results of a selection: the selected rows, a summary, and a plot of all counts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vtagent.errors import DataError
from vtagent.training.durable import replacing, write_whole
from vtagent.training.selection.trials import (
    NEEDS_FULL,
    SUFFICES,
    Trial,
    TrialLog,
    count_table,
    kind_of,
    write_selected,
)


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
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import Rectangle

    table = count_table(trials)
    samples = len(table) - 1
    figure, (cells, bars) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    cells.imshow([[count**0.5 for count in row] for row in table], origin="lower", cmap="Greys", vmin=0)
    highest = max(map(max, table))
    for full, row in enumerate(table):
        for low, count in enumerate(row):
            if count:
                colour = "white" if count**0.5 > highest**0.5 / 2 else "black"
                cells.text(low, full, str(count), ha="center", va="center", fontsize=7, color=colour)
            if (kind := kind_of(low, full, samples, gain)) is not None:
                edge = "tab:blue" if kind == SUFFICES else "tab:orange"
                cells.add_patch(Rectangle((low - 0.5, full - 0.5), 1, 1, fill=False, edgecolor=edge, linewidth=2))
    cells.set(xlabel="right answers at low resolution", ylabel="right answers at full resolution")
    cells.set(xticks=range(samples + 1), yticks=range(samples + 1), title=f"{len(trials)} questions")
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
    with replacing(path) as part:
        figure.savefig(part, dpi=110, format="png")
    plt.close(figure)


def counted(failures: Counter[str]) -> str:
    """The five most common reasons, on one line."""
    return "; ".join(f"{count} × {reason}" for reason, count in failures.most_common(5)) or "there were none"
