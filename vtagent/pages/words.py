"""Words with their places on a page, from a text layer or from OCR."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from vtagent.regions import SCALE, Region

__all__ = ["PageText", "Word", "region_around"]


@dataclass(frozen=True, slots=True)
class Word:
    """A word and the rectangle that it takes, as fractions of the page's width and height, from the left top corner."""

    text: str
    left: float
    top: float
    right: float
    bottom: float
    line: int = 0
    """Number of its line; words of one line follow each other."""

    def turned(self, degrees: int) -> Word:
        """The word on the page after a turn clockwise by 0, 90, 180 or 270 degrees."""
        left, top, right, bottom = self.left, self.top, self.right, self.bottom
        match degrees:
            case 90:
                left, top, right, bottom = 1 - bottom, left, 1 - top, right
            case 180:
                left, top, right, bottom = 1 - right, 1 - bottom, 1 - left, 1 - top
            case 270:
                left, top, right, bottom = top, 1 - right, bottom, 1 - left
        return Word(self.text, left, top, right, bottom, self.line)


@dataclass(frozen=True)
class PageText:
    """The words of a page in reading order.

    Attributes:
        words: The words.
        source: "text" if they stand in the file's text layer; "ocr" if they were recognised; "none" if there are none.
    """

    words: tuple[Word, ...]
    source: str = "none"

    @cached_property
    def lines(self) -> tuple[tuple[Word, ...], ...]:
        """The words, line by line."""
        return tuple(tuple(line) for _, line in groupby(self.words, key=lambda word: word.line))

    @cached_property
    def plain(self) -> str:
        """The text without places: words with spaces between them, one line for each line of the page."""
        return "\n".join(" ".join(word.text for word in line) for line in self.lines)

    def within(self, region: Region | None) -> tuple[Word, ...]:
        """The words whose middle lies in a region; all of them for None."""
        if region is None:
            return self.words
        x1, y1, x2, y2 = (value / SCALE for value in region)
        return tuple(
            word
            for word in self.words
            if x1 <= (word.left + word.right) / 2 <= x2 and y1 <= (word.top + word.bottom) / 2 <= y2
        )


def region_around(words: Iterable[Word]) -> Region:
    """The smallest region that holds all words, of which there must be at least one."""
    listed = list(words)
    x1 = min(SCALE - 1, max(0, int(SCALE * min(word.left for word in listed))))
    y1 = min(SCALE - 1, max(0, int(SCALE * min(word.top for word in listed))))
    x2 = max(x1 + 1, min(SCALE, -int(-SCALE * max(word.right for word in listed) // 1)))
    y2 = max(y1 + 1, min(SCALE, -int(-SCALE * max(word.bottom for word in listed) // 1)))
    return Region(x1, y1, x2, y2)
