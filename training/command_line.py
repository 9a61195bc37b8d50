"""What the commands of this package share: how they end, settings with help, and the options that choose a grader."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import field
from pathlib import Path
from typing import Any

from vtagent.errors import SettingsError, VtagentError
from vtagent.training.rewards.grading import STEPS, Cascade, build_grader


@contextmanager
def clean_exit(parser: argparse.ArgumentParser) -> Iterator[None]:
    """End the command with one line instead of a traceback: status 1 for an error, 130 for an interrupt.

    Args:
        parser: The parser of the command, for its name.
    """
    try:
        yield
    except VtagentError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, f"\n{parser.prog}: interrupted; the same command goes on from here\n")


def setting(default: Any, about: str) -> Any:
    """A field of a dataclass whose fields are options of the command line.

    Args:
        default: The default; `list` for an empty list.
        about: The help.
    """
    kind = "default_factory" if default is list else "default"
    return field(**{kind: default}, metadata={"help": about})


def add_grader_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `grader_of` reads."""
    add = parser.add_argument
    add("--grader", default="exact", help=f"steps out of {', '.join(STEPS)}, joined by + (default: exact)")
    add("--judge-model", help="for a grader with `judge`: its name at the server, or provider:model")
    add("--judge-url", help="OpenAI-compatible server of the judge")
    add("--judge-timeout", type=float, default=60.0, help="seconds for one reply of the judge (default: 60)")
    add("--judge-attempts", type=int, default=4, help="how often the judge is asked one question (default: 4)")
    add("--judge-concurrency", type=int, default=16, help="questions to the judge under way together (default: 16)")
    add("--judge-temperature", default="0", help="a number, or none for models that refuse one (default: 0)")


def grader_of(options: Any, folder: Path) -> Cascade:
    """Build the grader that the options name.

    Args:
        options: Has `grader`, `judge_model` and `judge_url`.
        folder: The output folder of the command; the judge's verdicts are kept in it.

    Raises:
        VtagentError: As `build_grader`.
    """
    return build_grader(
        options.grader,
        judge_model=options.judge_model,
        judge_url=options.judge_url,
        cache=folder / "judge",
        concurrency=options.judge_concurrency,
        attempts=options.judge_attempts,
        timeout=options.judge_timeout,
        temperature=_temperature(options.judge_temperature),
    )


def _temperature(text: str) -> float | None:
    """The judge's temperature; None: the model is not told any.

    Raises:
        SettingsError: It is no number from 0 to 2.
    """
    if text == "none":
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 2:
        raise SettingsError(f"judge_temperature {text!r} is no number from 0 to 2: try 0, or none")
    return value
