"""Compare penalties: run the same training under several of them, from several starts, with several seeds each.

    python -m vtagent.training.ablation --config training/recipes/ablation.yaml
    python -m vtagent.training.ablation --config training/recipes/ablation.yaml --penalties off paper=0.2 --seeds 0

A start is a share of zooms, such as 0.8: the recipe's policy is moved to it (see training.starts). Or it is the folder
of a policy. Every run is `python -m vtagent.training.grpo` with the recipe and with any further setting that you give
here, in a folder of its own in --out with its log.txt. Before training, each start is asked a sample of the pages with
zooming forced and forbidden; that predicts where the share of zooms goes (see training/measure/drift.py).

After each run, table.md, summary.json and zoomed.png in --out are updated. The first seed of every run comes before the
second of any. Interrupt the command at any moment; the same command continues. It may also be started several times at
once, on one machine: no run is made twice.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from vtagent.errors import SettingsError
from vtagent.training.command_line import clean_exit
from vtagent.training.durable import held, write_whole
from vtagent.training.grpo import parse, remember
from vtagent.training.measure.curves import History, read_history
from vtagent.training.measure.effects import DIRECT, ZOOM
from vtagent.training.measure.penalties import WINDOW, Beginning, Comparison, Rule
from vtagent.training.measure.plots import plot_curves
from vtagent.training.progress import Progress

COMPARED = ("paper=0", "paper=0.15", "paper=0.2", "paper=0.3", "paper=0.6", "off", "always", "tokens")
STARTS = ("0.5", "0.8")
PAGES = 100
"""Pages on which a start's accuracies are measured, before training."""
REPEATS = 4
"""How often each of them is asked, sampled at temperature 1, in either way."""
_SEED = 90_000
"""Seed of these pages; the runs draw theirs from --seeds."""
_OURS = ("--output_dir", "--seed", "--penalty", "--threshold", "--config", "--model_name_or_path")


@dataclass(frozen=True)
class _Run:
    """One training."""

    rule: Rule
    start: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.rule.name}-from-{self.start}-{self.seed}"


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
    add("--penalties", nargs="+", default=COMPARED, metavar="NAME[=θ]", help=f"default: {' '.join(COMPARED)}")
    add(
        "--starts",
        nargs="+",
        default=STARTS,
        metavar="SHARE",
        help=f"or folders of policies; default: {' '.join(STARTS)}",
    )
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    add("--jobs", type=int, default=1, help="runs at the same time, which share the cores (default: %(default)s)")
    add("--pages", type=int, default=PAGES, help="pages to measure a start on (default: %(default)s)")
    add("--out", type=Path, default=Path("runs/ablation"), help="folder (default: %(default)s)")
    options, others = parser.parse_known_args(arguments)
    with clean_exit(parser):
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
        _run(options, others)


def _run(options: argparse.Namespace, others: Sequence[str]) -> None:
    if taken := [word for word in others if word.partition("=")[0] in _OURS]:
        raise SettingsError(f"{taken[0]} is set for each run; use --seeds, --penalties, --starts and --out")
    if options.jobs < 1 or options.pages < 1:
        raise SettingsError("--jobs and --pages must be at least 1")
    rules = [Rule.parse(text) for text in dict.fromkeys(options.penalties)]
    try:
        recipe = options.config.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{options.config}: {error.strerror}") from error
    run, args, model = parse(["--config", str(options.config), "--output_dir", str(options.out), *others])
    remember({"recipe": recipe, "settings": list(others), "pages": options.pages}, options.out, going_on=True)
    with held(options.out / "starts.lock", wait=True):
        starts = {_name(text): _start(text, run, args, model, options) for text in dict.fromkeys(options.starts)}
        beginnings = {name: _beginning(name, folder, run, args, options) for name, folder in starts.items()}
    comparison = Comparison(args.rewards, int(args.num_generations), beginnings)
    plan = [_Run(rule, start, seed) for seed in dict.fromkeys(options.seeds) for start in starts for rule in rules]
    _make(plan, starts, options, others, comparison)
    print((options.out / "table.md").read_text(encoding="utf-8"))
    print(f"Details in {options.out}")


def _name(start: str) -> str:
    """The name of a start: its share, or the last part of its folder."""
    return start if _share(start) is not None else Path(start).resolve().name


def _share(start: str) -> float | None:
    try:
        return float(start)
    except ValueError:
        return None


def _start(start: str, run: Any, args: Any, model: Any, options: argparse.Namespace) -> Path:
    """The folder of a start policy, which is made if it is a share and not there yet."""
    from vtagent.training.starts import SHARE, make_start

    share = _share(start)
    if share is None:
        if not (Path(start) / "config.json").exists():
            raise SettingsError(f"--starts {start}: neither a share between 0 and 1 nor the folder of a policy")
        return Path(start)
    folder: Path = options.out / f"start-{start}"
    if not (folder / SHARE).exists():
        print(f"making a start that zooms with a probability of {start}", file=sys.stderr, flush=True)
        make_start(model.model_name_or_path, share, _pages(run, options.pages), folder)
    return folder


def _pages(run: Any, count: int) -> list[Any]:
    """Pages of the recipe's data, in its mix, that rendered data show in no run."""
    from vtagent.training.data import mixed, open_examples

    examples: Any = open_examples(run.data, columns=run.columns, split=run.split, seed=_SEED)
    if run.mix:
        examples = mixed(examples, run.mix, seed=_SEED)
    return list(examples[:count])


def _beginning(name: str, policy: Path, run: Any, args: Any, options: argparse.Namespace) -> Beginning:
    """Measure a start policy: its share of zooms, and each page's accuracies. Resumable; kept in `beginning-NAME`."""
    from vtagent.images import MemoryImageStore
    from vtagent.models.chat import ChatVLM
    from vtagent.training.command_line import grader_of
    from vtagent.training.measure.asking import evaluate
    from vtagent.training.measure.journal import Journal, digest_of_examples, digest_of_weights
    from vtagent.training.starts import share_of

    pages = _pages(run, options.pages)
    asked = [page for page in pages for _ in range(REPEATS)]
    settings = {"weights": digest_of_weights(str(policy)), "examples": digest_of_examples(asked)}
    folder: Path = options.out / f"beginning-{name}"
    journal = Journal(folder, settings)
    if len(journal.outcomes) < 2 * len(asked):
        print(f"measuring the start {name}", file=sys.stderr, flush=True)
        model = ChatVLM.from_pretrained(
            str(policy), image_store=MemoryImageStore(), temperature=1.0, max_tokens=args.max_completion_length
        )
        grader = grader_of(run, options.out)
        limits = {"scale": args.scale, "max_zooms": args.max_zooms}
        asyncio.run(evaluate(model, asked, [ZOOM, DIRECT], grader=grader, journal=journal, **limits))
        model.engine.close()
    if not (folder / "share.json").exists():
        write_whole(folder / "share.json", json.dumps(share_of(str(policy), pages)) + "\n")
    share = float(json.loads((folder / "share.json").read_text(encoding="utf-8")))
    right: dict[str, dict[int, list[bool]]] = {DIRECT: {}, ZOOM: {}}
    for outcome in journal.outcomes:
        if outcome.right is not None and outcome.error is None:
            right[outcome.mode].setdefault(outcome.number // REPEATS, []).append(outcome.right)
    by_source: dict[str, list[tuple[float, float]]] = {}
    for number, page in enumerate(pages):
        if number in right[DIRECT] and number in right[ZOOM]:
            by_source.setdefault(page.source, []).append((fmean(right[DIRECT][number]), fmean(right[ZOOM][number])))
    shown = [
        fmean(
            o.visual_tokens / o.full_visual_tokens for o in journal.outcomes if o.mode == mode and o.full_visual_tokens
        )
        for mode in (DIRECT, ZOOM)
    ]
    return Beginning(share, by_source, (shown[0], shown[1]))


def _make(
    plan: Sequence[_Run],
    starts: Mapping[str, Path],
    options: argparse.Namespace,
    others: Sequence[str],
    comparison: Comparison,
) -> None:
    """Make the runs that are missing, and update the report after each."""
    missing = [own for own in plan if not finished(options.out / own.name)]
    progress = Progress(len(plan), done=len(plan) - len(missing), unit="runs", title="ablation")
    reporting, children = threading.Lock(), set[subprocess.Popen[bytes]]()
    report(plan, options.out, comparison)

    def one(own: _Run) -> None:
        folder = options.out / own.name
        folder.mkdir(parents=True, exist_ok=True)
        with held(folder / "lock") as lock:
            if lock is None:  # another command is at it
                return
            if not finished(folder):
                _train(own, starts[own.start], folder, options, others, lock, children)
        with reporting:
            report(plan, options.out, comparison)
            progress.step(own.name)

    with ThreadPoolExecutor(options.jobs) as pool:
        jobs = [pool.submit(one, own) for own in missing]
        try:
            done, _ = wait(jobs, return_when=FIRST_EXCEPTION)
            for job in done:
                job.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in list(children):
                child.send_signal(signal.SIGINT)  # it saves and ends
            raise
        finally:
            progress.close()
    if left := [own.name for own in plan if not finished(options.out / own.name)]:
        print(f"{len(left)} runs are still being made by another command", file=sys.stderr)


def finished(folder: Path) -> bool:
    """Whether the folder of a run holds its last step. A state that is not whole JSON counts as unfinished."""
    try:
        state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return bool(state["global_step"] >= state["max_steps"])


def report(plan: Sequence[_Run], out: Path, comparison: Comparison) -> None:
    """Write table.md, summary.json and zoomed.png of the runs that are finished.

    Args:
        plan: All runs.
        out: The folder to write to.
        comparison: What is known before training.
    """
    runs: dict[str, dict[Rule, list[History]]] = {}
    for own in plan:
        if finished(folder := out / own.name):
            log = read_history(folder / "trainer_state.json")
            runs.setdefault(own.start, {}).setdefault(own.rule, []).append(log)
    known = Comparison(comparison.recipe, comparison.rollouts, comparison.beginnings, runs)
    agree, count = known.agreement()
    said = f"{count} of {len(plan)} runs are finished. {agree} of them went where they were predicted to go."
    parts = [known.table(), said, known.swap_table(), known.mixture_table()] if runs else [said]
    write_whole(out / "table.md", "\n\n".join(filter(None, parts)) + "\n")
    panels = known.panels()
    summary = {
        "runs": count,
        "as predicted": agree,
        "predicted drift": {s: {rule.name: known.predicted(s, rule) for rule in rules} for s, rules in runs.items()},
        "beginnings": {name: asdict(beginning) for name, beginning in known.beginnings.items()},
        "share that zooms": {t: {name: asdict(line) for name, line in lines.items()} for t, lines in panels.items()},
    }
    write_whole(out / "summary.json", json.dumps(summary, indent=1) + "\n")
    if panels:
        plot_curves(panels, out / "zoomed.png", y=f"% of rollouts that zoom, mean of {WINDOW} steps")


def _train(
    own: _Run,
    policy: Path,
    folder: Path,
    options: argparse.Namespace,
    others: Sequence[str],
    lock: int,
    children: set[subprocess.Popen[bytes]],
) -> None:
    """Make one run in a process of its own, which holds the lock as long as it lives.

    Raises:
        SettingsError: The run failed; its own message says why.
        KeyboardInterrupt: The run was interrupted.
    """
    command = [sys.executable, "-m", "vtagent.training.grpo", "--config", str(options.config)]
    command += ["--output_dir", str(folder), "--penalty", own.rule.penalty, "--seed", str(own.seed)]
    if own.rule.threshold is not None:
        command += ["--threshold", str(own.rule.threshold)]
    command += ["--model_name_or_path", str(policy)]
    command += ["--evaluate_documents", "0", "--log_rollouts", "false", *others]
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    env = {"OMP_NUM_THREADS": str(threads), **os.environ}
    with (folder / "log.txt").open("ab") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log, env=env, pass_fds=(lock,))
        children.add(child)
        status = child.wait()
        children.discard(child)
    if status:
        last = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
        raise SettingsError(f"the run in {folder} ended with status {status}: {last[:300]}")
    if not finished(folder):
        raise KeyboardInterrupt


if __name__ == "__main__":
    main()
