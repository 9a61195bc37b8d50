"""The rule `math`: accepts a prediction that is the same number or formula as a gold answer, in any notation.

It needs math-verify, which searches a text for expressions and takes the last one. A prediction that lists all numbers
would then be right, so here the whole prediction must be one expression.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import subprocess
import sys
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Timer

from vtagent.errors import VtagentError
from vtagent.training.rewards.rules import unboxed

_WORKER = Path(__file__).parent / "math_worker.py"
# A word that is not a LaTeX command, a command that holds prose, or a separator of several answers.
_PROSE = re.compile(
    r"(?<![^\W\d_]|\\)[^\W\d_]{2,}|\\(?:text\w*|mbox|mathrm|operatorname|quad|or|lor|vee)(?![a-zA-Z])|[\n;$]"
)
_MATHEMATICAL = re.compile(r"[0-9\\^=+*/]")


class Mathematics:
    """Asks math-verify in another process, one question at a time.

    Args:
        seconds: A question that takes longer has no verdict, and the process is killed.

    Raises:
        VtagentError: math-verify is not installed.
    """

    def __init__(self, *, seconds: float = 15.0) -> None:
        if importlib.util.find_spec("math_verify") is None:
            raise VtagentError("the grader `math` needs math-verify: pip install 'vtagent[math]'")
        self.seconds = seconds
        self._thread = ThreadPoolExecutor(1, "math-verify")
        self._worker: subprocess.Popen[str] | None = None
        self._ready = False

    async def __call__(self, answers: Sequence[str], prediction: str) -> bool | None:
        """Compare mathematically; see `rules.Rule`. Never False, because a right answer may not be an expression.

        Args:
            answers: The gold answers.
            prediction: What the policy answered.

        Returns:
            True if the prediction equals a gold answer; else None.
        """
        said = expression(prediction)
        if said is None:
            return None
        loop = asyncio.get_running_loop()
        for answer in answers:
            gold = expression(answer)
            if gold is not None and await loop.run_in_executor(self._thread, self._equal, gold, said):
                return True
        return None

    def _equal(self, gold: str, said: str) -> bool:
        """Ask the worker. If it dies or takes too long, the expressions count as not equal."""
        worker = self._worker if self._worker and self._worker.poll() is None else self._start()
        # The first answer takes longer, because the worker imports sympy.
        timer = Timer(self.seconds if self._ready else self.seconds + 60, worker.kill)
        timer.start()
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            worker.stdin.write(json.dumps({"gold": gold, "said": said}) + "\n")
            worker.stdin.flush()
            reply = worker.stdout.readline()
        except OSError:
            reply = ""
        finally:
            timer.cancel()
        self._ready = bool(reply)
        if not reply:
            worker.kill()
            worker.wait()  # otherwise `poll` may still report it alive at the next question
        return reply.strip() == "true"

    def _start(self) -> subprocess.Popen[str]:
        if self._worker is not None:
            _end(self._worker)
        self._worker = subprocess.Popen(
            [sys.executable, "-P", str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        self._ready = False
        weakref.finalize(self, _end, self._worker)
        return self._worker


def expression(text: str) -> str | None:
    r"""Return the one expression that the whole text is, without delimiters; None for words, lists and long texts.

    Example:
        >>> expression(r"$\boxed{x^2+1}$"), expression("4 or 5"), expression("ab")
        ('x^2+1', None, None)
    """
    bare = text.strip()
    for opening, closing in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        if bare.startswith(opening) and bare.endswith(closing) and len(bare) >= 2 * len(opening):
            bare = bare[len(opening) : -len(closing)].strip()
            break
    bare = unboxed(bare).strip().rstrip(".")
    if not bare or len(bare) > 200 or bare.count("=") > 1 or not _MATHEMATICAL.search(bare):
        return None
    return None if _PROSE.search(bare) else bare


def _end(worker: subprocess.Popen[str]) -> None:
    worker.kill()
    for pipe in (worker.stdin, worker.stdout):
        if pipe is not None:
            with suppress(OSError):  # closing flushes, which fails if the process has died
                pipe.close()
    worker.wait()
