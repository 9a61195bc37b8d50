"""Finds where an answer stands on a page: the words of a text layer, or of OCR, that say it."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

from vtagent.pages.words import PageText, Word, region_around
from vtagent.regions import Region

__all__ = ["place_of", "words_that_say"]

_EDGES = ".,;:!?()[]{}\"'`“”‘’«»"
_ALIKE = 0.8
"""Least likeness of recognised words to an answer, 0 to 1: OCR mistakes a character now and then."""
_LONGEST = 24
"""Most words of an answer that are looked for; more are not one value."""


def place_of(answer: str, text: PageText, *, within: Region | None = None, question: str = "") -> Region | None:
    """The region of the words of a page that say an answer.

    Args:
        answer: What was answered.
        text: The page's words.
        within: The region that the model looked at last. What it holds is preferred.
        question: Among places that say the same, the one whose line and neighbours share most words with it wins.

    Returns:
        The region; None if the page's words do not say the answer.
    """
    found: list[Sequence[Word]] = list(words_that_say(answer, text))
    if not found:
        return None
    if within is not None:
        inside = set(text.within(within))
        found = [words for words in found if inside.issuperset(words)] or found
    asked = {_plain(word) for word in question.split()} - {""}

    def near(words: Sequence[Word]) -> tuple[int, float]:
        """How much of the question stands in the line, and how near, upwards, is the next line that holds some."""
        own = {_plain(word.text) for word in text.words if word.line == words[0].line}
        above = [word for word in text.words if _plain(word.text) in asked and word.top <= words[0].top]
        return len(asked & own), -min((words[0].top - word.top for word in above), default=1.0)

    best: Sequence[Word] = max(found, key=near)
    return region_around(best)


def words_that_say(answer: str, text: PageText) -> Iterator[tuple[Word, ...]]:
    """The runs of words on one line that say an answer, in reading order.

    Case, accents, spaces and punctuation at the ends of words do not count. Of recognised words, those that are alike
    are taken where none is the same.
    """
    wanted = [plain for word in answer.split() if (plain := _plain(word))]
    if not wanted or len(wanted) > _LONGEST:
        return
    said = "".join(wanted)
    runs = [run for line in text.lines for run in _runs(line, len(said))]
    same = [words for plain, words in runs if plain == said]
    if not same and text.source == "ocr":
        likeness = [(SequenceMatcher(None, plain, said).ratio(), words) for plain, words in runs]
        best = max((ratio for ratio, _ in likeness), default=0.0)
        same = [words for ratio, words in likeness if ratio == best >= _ALIKE]
    yield from same


def _runs(line: Sequence[Word], length: int) -> Iterator[tuple[str, tuple[Word, ...]]]:
    """Every run of words of a line, with its text, that is about as long as `length` characters."""
    for start in range(len(line)):
        plain = ""
        for end in range(start, len(line)):
            plain += _plain(line[end].text)
            if len(plain) > length + 2:
                break
            if plain:
                yield plain, tuple(line[start : end + 1])


def _plain(word: str) -> str:
    decomposed = unicodedata.normalize("NFKD", word).casefold()
    return "".join(each for each in decomposed if not unicodedata.combining(each)).strip(_EDGES)
