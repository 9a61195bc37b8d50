"""How far a run has come: a bar with the time that is left on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

SHOWN = {
    "reward": "reward",
    "accuracy/all": "right",
    "zoom/all": "zooms",
    "visual_tokens/of_full": "tokens",
    "rollouts/failed": "failed",
}
"""Metrics that are shown, and what they are called there."""

_EVERY = 30.0
"""Seconds between two lines in a log."""


class ShowProgress(TrainerCallback):
    """Shows steps, the time left and the latest metrics on standard error; uses rich where it is installed."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._said = self._start = 0.0
        self._first = 0
        self._latest = ""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin, at the step that the run goes on from."""
        self._first, self._start = state.global_step, time.monotonic()
        if not state.is_world_process_zero:
            return
        if self._first:
            print(f"going on from step {self._first} of {state.max_steps}", file=sys.stderr, flush=True)
        self._bar = _bar() if sys.stderr.isatty() else None
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("training", total=state.max_steps, completed=self._first, latest="")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Remember the latest metrics."""
        found = {name: value for name in SHOWN if isinstance(value := (logs or {}).get(name), int | float)}
        if found:
            self._latest = "  ".join(f"{SHOWN[name]} {value:.2f}" for name, value in found.items())

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move on."""
        if not state.is_world_process_zero:
            return
        if self._bar is not None:
            self._bar.update(self._task, completed=state.global_step, latest=self._latest)
            return
        now = time.monotonic()
        if now - self._said >= _EVERY or state.global_step == state.max_steps:
            self._said = now
            pace = (now - self._start) / max(1, state.global_step - self._first)
            left = pace * (state.max_steps - state.global_step)
            line = f"step {state.global_step}/{state.max_steps}, {pace:.1f} s each, {left / 60:.0f} min left"
            print(f"{line}  {self._latest}", file=sys.stderr, flush=True)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _bar() -> Any:
    try:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ModuleNotFoundError:
        return None
    from rich.console import Console

    columns = ("[progress.description]{task.description}", "{task.fields[latest]}")
    return Progress(
        TextColumn(columns[0]),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn(columns[1]),
        console=Console(stderr=True),
    )
