"""Rules that compare a prediction with gold answers: equality after normalisation, ANLS, numbers within a tolerance.

A rule returns True, False, or None if it cannot decide. Then the next rule or a judge decides. No rule searches a
longer text for the answer: otherwise a policy would be rewarded for listing every candidate.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

Rule: TypeAlias = Callable[[Sequence[str], str], "bool | Awaitable[bool | None] | None"]
"""(gold answers, prediction) → right or wrong, or None: the rule cannot decide."""

ANLS_THRESHOLD = 0.9
"""Least similarity of a right answer: one wrong character in ten. The metric's own 0.5 would accept 48.19 for 48.10."""
TOLERANCE = 0.05
"""Greatest relative error of a right number: ChartQA's relaxed accuracy (arXiv:2203.10244, section 5)."""

_LONG = 1000
"""Characters; longer texts are only compared for equality, because the edit distance takes quadratic time."""

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{(.*)\}", re.DOTALL)
_QUOTES = " \"'`“”‘’„«»"
_NUMBER = re.compile(
    r"(?P<sign>[-+]?)\s*[$€£¥₹]?\s*(?P<digits>(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)\s*(?:[$€£¥₹]|(?P<percent>%?))"
)

_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_EXACT = re.compile(
    r"1[0-9]{3}|20[0-9]{2}|21[0-9]{2}"  # a year
    r"|[0-9]{1,4}[-/.][0-9]{1,2}[-/.][0-9]{1,4}|[0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?(?: ?[ap]\.?m)?"  # a date, a time
    rf"|(?:[0-9]{{1,2}}(?:st|nd|rd|th)? )?{_MONTH}(?: [0-9]{{1,2}}(?:st|nd|rd|th)?)?,?(?: [0-9]{{2,4}})?"
    r"|[-+]?\s*(?:[$€£¥₹]|(?:usd|eur|gbp|jpy|chf|inr)\s)\s*[-+]?[0-9][0-9.,]*(?:\s?[kmb]n?)?"  # money
    r"|[-+]?[0-9][0-9.,]*\s*(?:[€£¥₹$]|usd|eur|gbp|jpy|chf|inr|dollars?|euros?)"
    r"|0[0-9]+|[0-9]{7,}"  # numbers that identify: a leading zero, or many digits without commas
    r"|(?=[^ ]*[0-9])(?=[^ ]*[a-z])[a-z0-9]+(?:[-/_.#:][a-z0-9]+)*(?<!\d[kmb%])|[0-9]+(?:[-/ ][0-9]+){1,}"  # JTF-29
)
_WRAPPED = re.compile(
    r"\$(.+)\$|\\(?:text|textbf|mathrm|mathbf|boxed)\{(.+)\}|\*\*(.+)\*\*|\((.+)\)|\[(.+)\]|(.+)[.):]"
)
_OPTION = re.compile(r"(?:(?:option|choice|answer)\s*(?:is)?\s*:?\s*)?\(?([A-Ja-j])\)?", re.IGNORECASE)


def normalise(text: str) -> str:
    r"""Remove what does not matter: case, width, spacing, a \boxed, quotes around the text, a final full stop.

    Example:
        >>> normalise(' “Ａmount  due”. ')
        'amount due'
    """
    text = unboxed(unicodedata.normalize("NFKC", text))
    text = " ".join(text.casefold().split())
    return text.lstrip(_QUOTES).rstrip(_QUOTES + ".") or text


def exact(answers: Sequence[str], prediction: str) -> bool | None:
    """True if the prediction equals a gold answer after `normalise`; else None, because the wording may differ."""
    said = normalise(prediction)
    return True if said and said in {normalise(answer) for answer in answers} else None


def close(answers: Sequence[str], prediction: str) -> bool | None:
    """True if the ANLS reaches `ANLS_THRESHOLD`, or the prediction is equal to an answer that must be met; else None.

    Years, dates, money and identifiers must be met (`must_be_met`): a reward for almost the right one teaches
    misreading.
    """
    lenient = [answer for answer in answers if not must_be_met(answer)]
    return True if lenient and anls(lenient, prediction) >= ANLS_THRESHOLD else exact(answers, prediction)


def close_as_published(answers: Sequence[str], prediction: str) -> bool | None:
    """`close` for all answers alike, as the benchmarks' metric has it."""
    return True if anls(answers, prediction) >= ANLS_THRESHOLD else None


def numeric(answers: Sequence[str], prediction: str) -> bool | None:
    """Relaxed accuracy: a number must be within 5 % of a gold number (a gold zero exactly); other texts need `exact`.

    Years, money and numbers that identify must be met (`must_be_met`): 1984 is not 1990.

    Args:
        answers: The gold answers.
        prediction: What the policy answered.

    Returns:
        False only if the prediction and all gold answers are plain numbers, so that no judge is asked about them.
    """
    return _relaxed(answers, prediction, [0.0 if must_be_met(answer) else TOLERANCE for answer in answers])


def numeric_as_published(answers: Sequence[str], prediction: str) -> bool | None:
    """`numeric` for all numbers alike, as ChartQA's relaxed accuracy has it."""
    return _relaxed(answers, prediction, [TOLERANCE] * len(answers))


def _relaxed(answers: Sequence[str], prediction: str, tolerances: Sequence[float]) -> bool | None:
    said = number(prediction)
    golds = [number(answer) for answer in answers]
    pairs = zip(golds, tolerances, strict=True)
    if said is not None and any(gold is not None and _near(gold, said, tolerance) for gold, tolerance in pairs):
        return True
    return False if said is not None and None not in golds else exact(answers, prediction)


def must_be_met(answer: str) -> bool:
    """Whether an answer is a year, a date or time, an amount of money, or an identifier, so that near is wrong.

    Example:
        >>> [must_be_met(text) for text in ("1984", "3 May 2031", "$48.10", "JTF-29", "0417")]
        [True, True, True, True, True]
        >>> [must_be_met(text) for text in ("48.10", "17 %", "1,984", "a red bus")]
        [False, False, False, False]
    """
    return _EXACT.fullmatch(normalise(answer)) is not None


def option(answers: Sequence[str], prediction: str) -> bool | None:
    r"""Compares the letters of multiple-choice answers, whatever stands around them: `(B)`, `\text{B}`, `**B**`, `B.`.

    Returns:
        None if the prediction or all gold answers are not one letter.

    Example:
        >>> option(["B"], r"\boxed{\text{B}}"), option(["(b)"], "**C**"), option(["B"], "a bus")
        (True, False, None)
    """
    said, golds = _letter(prediction), {letter for answer in answers if (letter := _letter(answer))}
    return None if said is None or not golds else said in golds


def _letter(text: str) -> str | None:
    """The letter that a text is, without what stands around it."""
    plain = unboxed(text).strip()
    while (wrapped := _WRAPPED.fullmatch(plain)) is not None:
        plain = wrapped[wrapped.lastindex or 0].strip()
    found = _OPTION.fullmatch(plain)
    return None if found is None else found[1].upper()


def anls(answers: Sequence[str], prediction: str) -> float:
    """Average normalised Levenshtein similarity (ANLS) of one question (Biten et al., arXiv:1905.13648).

    Args:
        answers: The gold answers.
        prediction: What the policy answered.

    Returns:
        For the most similar gold answer, one minus the edit distance divided by the greater length, 0 to 1. It is 0 if
        that is below 0.5.
    """
    said = " ".join(prediction.casefold().split())
    return max(_similarity(" ".join(answer.casefold().split()), said) for answer in answers)


def number(text: str) -> tuple[float, bool] | None:
    """Read a text that is a number as a whole, and whether a percent sign follows it; None for any other text.

    Example:
        >>> number("-$1,234.50"), number("45 %"), number("4 or 5")
        ((-1234.5, False), (45.0, True), None)
    """
    plain = normalise(text).replace("\N{MINUS SIGN}", "-")
    if (found := _NUMBER.fullmatch(plain)) is None:
        return None
    return float(found["sign"] + found["digits"].replace(",", "")), bool(found["percent"])


def unboxed(text: str) -> str:
    r"""Return the content of the \boxed{…} that the whole text is; any other text unchanged."""
    found = _BOX.fullmatch(text.strip())
    if found is None:
        return text
    depth = 0
    for character in found[1]:
        depth += (character == "{") - (character == "}")
        if depth < 0:  # two boxes side by side
            return text
    return found[1]


def _near(gold: tuple[float, bool], said: tuple[float, bool], tolerance: float) -> bool:
    """Whether two numbers agree. If only one has a percent sign, the sign may be a unit or mean a hundredth."""
    (gold_value, gold_percent), (said_value, said_percent) = gold, said
    if gold_percent == said_percent:
        return _within(gold_value, said_value, tolerance)
    hundredth = (gold_value / 100, said_value) if gold_percent else (gold_value, said_value / 100)
    return _within(gold_value, said_value, tolerance) or _within(*hundredth, tolerance)


def _within(gold: float, said: float, tolerance: float) -> bool:
    return abs(said - gold) <= tolerance * abs(gold)


def _similarity(gold: str, said: str) -> float:
    longer, shorter = max(len(gold), len(said)), min(len(gold), len(said))
    if not longer:
        return 1.0
    if shorter * 2 < longer:  # the distance is at least the difference in length, so the similarity is below 0.5
        return 0.0
    if longer > _LONG:
        return float(gold == said)
    similarity = 1 - _distance(gold, said) / longer
    return similarity if similarity >= 0.5 else 0.0


def _distance(first: str, second: str) -> int:
    """The Levenshtein distance, computed row by row."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(second, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]
