"""Abstention: what a model answers, or a data set expects, where an image does not hold what was asked for."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["ABSENT", "abstains"]

ABSENT = "not on the page"
"""What a model is told to answer, and what the bundled policies answer."""

_SAID = {ABSENT, "not on this page", "not on these pages", "not on the pages", "not in the document"}


def abstains(answer: str | None) -> bool:
    """Whether an answer, given or gold, says that the image does not hold what was asked for.

    Example:
        >>> abstains("Not on the page."), abstains("48.10"), abstains(None)
        (True, False, False)
    """
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", answer or ""))
    return " ".join(words).casefold() in _SAID
