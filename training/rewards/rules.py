"""Rules that compare a prediction with the gold answers: exact after normalisation, ANLS, numbers within a tolerance.

A rule says True, False, or None where it cannot tell and another rule or a judge may. Rules read what a policy wrote,
so none of them searches a longer text for the answer: naming every candidate must not pay.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

Rule: TypeAlias = Callable[[Sequence[str], str], "bool | Awaitable[bool | None] | None"]
"""(gold answers, prediction) → verdict, or None: cannot tell."""

ANLS_THRESHOLD = 0.9
"""One wrong character in ten. The metric's own 0.5 would take 48.19 for 48.10."""
TOLERANCE = 0.05
"""ChartQA's relaxed accuracy (arXiv:2203.10244, section 5)."""

_LONG = 1000

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{(.*)\}", re.DOTALL)
_QUOTES = " \"'`“”‘’„«»"
_NUMBER = re.compile(
    r"(?P<sign>[-+]?)\s*[$€£¥₹]?\s*(?P<digits>(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)\s*(?P<percent>%?)"
)


def normalise(text: str) -> str:
    """The text without what does not matter: case, width, spacing, a \\boxed, quotes around it, a full stop after it.

    Example:
        >>> normalise(' “Ａmount  due”. ')
        'amount due'
    """
    text = unboxed(unicodedata.normalize("NFKC", text))
    text = " ".join(text.casefold().split())
    return text.lstrip(_QUOTES).rstrip(_QUOTES + ".") or text


def exact(answers: Sequence[str], prediction: str) -> bool | None:
    """True where the prediction equals a gold answer after normalisation; never False: it may be put differently."""
    said = normalise(prediction)
    return True if said and said in {normalise(answer) for answer in answers} else None


def close(answers: Sequence[str], prediction: str) -> bool | None:
    """True where the ANLS reaches `ANLS_THRESHOLD`; never False."""
    return True if anls(answers, prediction) >= ANLS_THRESHOLD else None


def numeric(answers: Sequence[str], prediction: str) -> bool | None:
    """Relaxed accuracy: numbers within 5 % of the gold one (a gold zero exactly), other texts by `exact`.

    False only where all are plain numbers, so that a judge after it is not asked about those.
    """
    said = number(prediction)
    golds = [number(answer) for answer in answers]
    if said is not None and any(gold is not None and _near(gold, said) for gold in golds):
        return True
    return False if said is not None and None not in golds else exact(answers, prediction)


def anls(answers: Sequence[str], prediction: str) -> float:
    """Average normalised Levenshtein similarity of one question, 0 to 1 (Biten et al., arXiv:1905.13648).

    One minus the edit distance over the longer length, for the best gold answer; 0 where that is below 0.5.
    """
    said = " ".join(prediction.casefold().split())
    return max(_similarity(" ".join(answer.casefold().split()), said) for answer in answers)


def number(text: str) -> tuple[float, bool] | None:
    """The number that the whole text is, and whether a percent sign follows it; None for any other text.

    Example:
        >>> number("-$1,234.50"), number("45 %"), number("4 or 5")
        ((-1234.5, False), (45.0, True), None)
    """
    plain = normalise(text).replace("\N{MINUS SIGN}", "-")
    if (found := _NUMBER.fullmatch(plain)) is None:
        return None
    return float(found["sign"] + found["digits"].replace(",", "")), bool(found["percent"])


def unboxed(text: str) -> str:
    """What stands in the \\boxed{…} that the whole text is; any other text as it is."""
    found = _BOX.fullmatch(text.strip())
    if found is None:
        return text
    depth = 0
    for character in found[1]:
        depth += (character == "{") - (character == "}")
        if depth < 0:  # two boxes side by side
            return text
    return found[1]


def _near(gold: tuple[float, bool], said: tuple[float, bool]) -> bool:
    """Within the tolerance; where only one of the two has a percent sign, it may stand for a unit or a hundredth."""
    (gold_value, gold_percent), (said_value, said_percent) = gold, said
    if gold_percent == said_percent:
        return _within(gold_value, said_value)
    hundredth = (gold_value / 100, said_value) if gold_percent else (gold_value, said_value / 100)
    return _within(gold_value, said_value) or _within(*hundredth)


def _within(gold: float, said: float) -> bool:
    return abs(said - gold) <= TOLERANCE * abs(gold)


def _similarity(gold: str, said: str) -> float:
    longer, shorter = max(len(gold), len(said)), min(len(gold), len(said))
    if not longer:
        return 1.0
    if shorter * 2 < longer:  # the distance is at least the difference in length
        return 0.0
    if longer > _LONG:  # the search is quadratic
        return float(gold == said)
    similarity = 1 - _distance(gold, said) / longer
    return similarity if similarity >= 0.5 else 0.0


def _distance(first: str, second: str) -> int:
    """Levenshtein's, row by row."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(second, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]
