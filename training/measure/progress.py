"""How far a long piece of work has come: one line on standard error, rewritten on a terminal, now and then in a log."""

from __future__ import annotations

import sys
import time

_EVERY = {True: 0.2, False: 30.0}
"""Seconds between two reports, on a terminal and in a log."""


class Progress:
    """Counts steps and reports them with an estimate of the time left.

    Args:
        total: Steps in all.
        done: Steps that were done before.
        unit: What a step is, in the plural.
    """

    def __init__(self, total: int, *, done: int = 0, unit: str) -> None:
        self._total, self._done, self._before, self._unit = total, done, done, unit
        self._terminal = sys.stderr.isatty()
        self._start = self._reported = time.monotonic()
        if done:
            print(f"{done} of {total} {unit} were done before", file=sys.stderr, flush=True)

    def step(self, doing: str = "") -> None:
        """One more is done."""
        self._done += 1
        now = time.monotonic()
        if now - self._reported >= _EVERY[self._terminal] or self._done == self._total:
            self._reported = now
            left = (now - self._start) / (self._done - self._before) * (self._total - self._done)
            line = f"{self._done}/{self._total} {self._unit}" + (f" ({doing})" if doing else "")
            line += f", {_clock(left)} left" if self._done < self._total else f" in {_clock(now - self._start)}"
            print(
                f"\r\x1b[2K{line}" if self._terminal else line,
                end="" if self._terminal else "\n",
                file=sys.stderr,
                flush=True,
            )

    def close(self) -> None:
        """End the line."""
        if self._terminal and self._done > self._before:
            print(file=sys.stderr)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
