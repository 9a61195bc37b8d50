"""How far a run has come: a bar on a terminal, lines in a log, and nothing from other processes than the first."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from vtagent.training.rl.callbacks import ShowProgress


class Terminal(io.StringIO):
    """Takes what is written for what somebody sees."""

    def isatty(self) -> bool:
        return True


def text(shown: str) -> str:
    """What was written, without colours and movements of the cursor."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)


def run(folder: Path, *, first: int = 0, last: int = 3, main: bool = True) -> ShowProgress:
    """Three steps, or those that are left of them, each with its metrics."""
    args, control = TrainingArguments(str(folder), report_to="none", use_cpu=True), TrainerControl()
    state = TrainerState(max_steps=3, global_step=first, is_world_process_zero=main)
    shown = ShowProgress()
    shown.on_train_begin(args, state, control)
    for step in range(first + 1, last + 1):
        state.global_step = step
        shown.on_log(args, state, control, logs={"reward": step / 4, "zoom/all": 0.5, "loss": 1.0})
        shown.on_step_end(args, state, control)
    if last == 3:
        shown.on_train_end(args, state, control)
    return shown


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Make standard error a terminal, 200 columns wide."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    return screen


def test_a_terminal_shows_a_bar_with_the_latest_metrics_and_has_its_cursor_back_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = on_a_terminal(monkeypatch)
    shown = run(tmp_path)
    last = text(terminal.getvalue()).strip().splitlines()[-1]
    assert last.startswith("training")
    assert "3/3" in last
    assert last.endswith("reward 0.75  zooms 0.50")
    assert terminal.getvalue().endswith("\n")
    assert terminal.getvalue().rfind("\x1b[?25h") >= terminal.getvalue().rfind("\x1b[?25l")
    assert shown._bar is None


def test_the_bar_of_a_run_that_goes_on_begins_where_that_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch)
    shown = run(tmp_path, first=2, last=2)
    assert shown._bar is not None
    assert (shown._bar.n, shown._bar.total) == (2, 3)
    shown._bar.close()
    assert "going on from step 2 of 3" in text(terminal.getvalue())


def test_a_log_gets_the_first_step_and_the_last_and_one_each_half_a_minute_between(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path)
    first, last = capsys.readouterr().err.splitlines()
    assert first == "1/3 steps, 00:00 elapsed, 00:00 left, reward 0.25  zooms 0.50"
    assert last == "3/3 steps, 00:00 elapsed, 00:00 left, reward 0.75  zooms 0.50"


def test_other_processes_than_the_first_show_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch)
    run(tmp_path, first=1, main=False)
    assert terminal.getvalue() == ""
