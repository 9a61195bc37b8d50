"""What a person gives to the command line: image files, a question. Each mistake is one sentence that names it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from vtagent.errors import DataError, ImageError, ImageNotFound, UnreadableImage, named
from vtagent.images import ImageStore
from vtagent.pages.shelf import is_pdf
from vtagent.views import View

__all__ = ["check_question", "image_block"]


def check_question(question: str) -> str:
    """Returns the question unchanged.

    Raises:
        DataError: It is empty, or was not typed in UTF-8, so it cannot be sent to a model.
    """
    if not question.strip():
        raise DataError("the question is empty")
    if any("\ud800" <= character <= "\udfff" for character in question):
        raise DataError("the question is not UTF-8")
    return question


def image_block(path: Path, store: ImageStore) -> dict[str, Any]:
    """Stores an image file.

    Args:
        path: The file.
        store: Where it is kept.

    Returns:
        The block that shows it in a message.

    Raises:
        ImageError: The file cannot be used. The message names it, and says what to do with a PDF.
    """
    try:
        return View(store.put_file(path)).block()
    except ImageNotFound:  # names the file
        raise
    except ImageError as error:
        if _is_pdf(path):
            command = f'vtagent docqa {shlex.quote(str(path))} "QUESTION"'
            raise UnreadableImage(f"{str(path)!r} is a PDF: ask about its pages with {command}") from error
        raise named(error, str(path)) from error


def _is_pdf(path: Path) -> bool:
    """Returns whether a file is a PDF."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return is_pdf(file.read(1024))
