"""How far a long piece of work has come, on standard error: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys

from tqdm import tqdm

_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} {unit}, {remaining} left{postfix}"
_LINE = "{n_fmt}/{total_fmt} {unit}, {elapsed} elapsed, {remaining} left{postfix}"
_SECONDS = 30.0
"""Seconds between two lines in a log."""


class Progress(tqdm):  # type: ignore[misc] # untyped
    """Counts steps; shows the time left at the average pace so far, and what `set_postfix_str` was told last.

    In a log, `close` adds a last line.

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
