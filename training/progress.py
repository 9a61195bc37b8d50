"""What a long piece of work tells its user and obeys: its progress on standard error, and a request to stop."""

from __future__ import annotations

import signal
import sys
from types import FrameType

from tqdm import tqdm

_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} {unit}, {remaining} left{postfix}"
_LINE = "{n_fmt}/{total_fmt} {unit}, {elapsed} elapsed, {remaining} left{postfix}"
_SECONDS = 30.0
"""Seconds between two lines in a log."""


class Progress(tqdm):  # type: ignore[misc] # untyped
    """Counts steps; shows the time left at the average pace so far, and what `set_postfix_str` was told last.

    It is a bar on a terminal and a line now and then in a log, where `close` adds a last line.

    Args:
        total: Number of steps.
        done: Steps that were done before.
        unit: What a step is, in the plural.
        title: What the bar is called on a terminal.
    """

    def __init__(self, total: int, *, done: int = 0, unit: str, title: str | None = None) -> None:
        self._terminal = sys.stderr.isatty()
        self._shown = done
        super().__init__(
            desc=title,
            total=total,
            initial=done,
            unit=unit,
            file=sys.stderr,
            bar_format=_BAR if self._terminal else _LINE,
            mininterval=0.2 if self._terminal else _SECONDS,
            miniters=1,
            smoothing=0,
            dynamic_ncols=True,
            leave=self._terminal,
        )

    def step(self, note: str = "") -> None:
        """Count one step.

        Args:
            note: Stands at the end of the line until the next note.
        """
        self.set_postfix_str(note, refresh=False)
        self.update()

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Draw the bar, or print a line unless the last one said the same. See `tqdm.display`."""
        if self._terminal:
            return bool(super().display(msg, pos))
        if self.n != self._shown:
            self._shown = self.n
            print(self, file=sys.stderr, flush=True)
        return False

    def close(self) -> None:
        """Show the last state and end the line. Safe to call twice."""
        if not self.disable:
            self.refresh()
        super().close()


class StopRequest:
    """Turns the first interrupt (SIGINT, SIGTERM) into a request to stop. The second one kills the process."""

    def __init__(self) -> None:
        self.asked = False
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}

    def _ask(self, number: int, _: FrameType | None) -> None:
        self.asked = True
        signal.signal(number, signal.SIG_DFL)

    def withdraw(self) -> None:
        """Restore the signal handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
