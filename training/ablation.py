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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from vtagent.errors import SettingsError
from vtagent.training.command_line import clean_exit
from vtagent.training.durable import write_whole
from vtagent.training.grpo import remember
from vtagent.training.measure.curves import History, read_history
from vtagent.training.measure.penalties import plot, table, zoom_shares
from vtagent.training.rewards import PENALTIES

COMPARED = ("off", "always", "paper", "reference")
_OURS = ("--output_dir", "--seed", "--penalty", "--config")


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
        report({own: list(_histories(options.out, own, plan)) for own in options.penalties}, options.out)
    print((options.out / "table.md").read_text(encoding="utf-8"))
    print(f"Details in {options.out}")


def finished(folder: Path) -> bool:
    """Whether the folder of a run holds its last step. A state that is not whole JSON counts as unfinished."""
    try:
        state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return bool(state["global_step"] >= state["max_steps"])


def report(runs: Mapping[str, Sequence[History]], out: Path) -> None:
    """Write table.md, summary.json and zoomed.png.

    Args:
        runs: {penalty: the log of each finished run}.
        out: The folder to write to.
    """
    known = {penalty: histories for penalty, histories in runs.items() if histories}
    count = "\n".join(f"{penalty}: {len(histories)} seeds" for penalty, histories in known.items())
    write_whole(out / "table.md", f"{table(known)}\n\n{count}\n")
    shares = {
        source: {penalty: asdict(series) for penalty, series in lines.items()}
        for source, lines in zoom_shares(known).items()
    }
    write_whole(out / "summary.json", json.dumps({"share that zooms": shares}, indent=1) + "\n")
    plot(known, out / "zoomed.png")


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


def _histories(out: Path, penalty: str, plan: Sequence[tuple[str, int]]) -> Iterator[History]:
    """The logs of a penalty's finished runs."""
    for own, seed in plan:
        folder = out / f"{own}-{seed}"
        if own == penalty and finished(folder):
            yield read_history(folder / "trainer_state.json")


if __name__ == "__main__":
    main()
