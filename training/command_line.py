"""What the commands of this package share: how they end, settings with help, and the options that choose a grader."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import field
from pathlib import Path
from typing import Any

from vtagent.errors import VtagentError
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


def grader_of(options: Any, folder: Path) -> Cascade:
    """Build the grader that the options name.

    Args:
        options: Has `grader`, `judge_model` and `judge_url`.
        folder: The output folder of the command; the judge's verdicts are kept in it.

    Raises:
        VtagentError: As `build_grader`.
    """
    return build_grader(
        options.grader, judge_model=options.judge_model, judge_url=options.judge_url, cache=folder / "judge"
    )
