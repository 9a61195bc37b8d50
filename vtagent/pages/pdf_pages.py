"""The pages of a PDF. A part of a page is drawn from the page itself, as finely as the view needs it."""

from __future__ import annotations

import math

from PIL import Image

from vtagent.errors import ImageTooLarge, UnreadableImage
from vtagent.formats import check_size
from vtagent.limits import ImageLimits
from vtagent.pages.pdf_process import PdfProcess
from vtagent.pages.source import PageSource
from vtagent.pages.words import Word

__all__ = ["PdfPages"]

_POINTS = 72.0
"""Points to an inch."""


class PdfPages(PageSource):
    """A PDF.

    Args:
        data: The file.
        limits: Limits that it, and each page that is looked at, must meet.

    Raises:
        UnreadableImage: It is encrypted, has no pages, or cannot be opened.
        ImageTooLarge: It has too many pages, or opening it costs too much.
    """

    mime_type = "application/pdf"

    def __init__(self, data: bytes, limits: ImageLimits) -> None:
        self._limits = limits
        self._process = PdfProcess(data, limits.documents)
        self.count = self._process.opened["pages"]
        if not self._process.opened["sound"]:
            self.damage = "the PDF is damaged: pages may be missing"
        if self.count < 1:
            self.close()
            raise UnreadableImage("the PDF has no pages: is it complete?")
        if self.count > limits.documents.max_pages:
            self.close()
            raise ImageTooLarge(
                f"the PDF has {self.count} pages; at most {limits.documents.max_pages} are allowed: split it"
            )
        self._sizes: dict[int, tuple[int, int]] = {}

    def size(self, page: int) -> tuple[int, int]:
        """As `PageSource.size`: the pixels of the page at `DocumentLimits.dpi`, or fewer if those exceed the limits."""
        if page not in self._sizes:
            head, _ = self._process.ask("size", page=self.check(page))
            width, height = head["size"]
            if not (0 < width < 1e7 and 0 < height < 1e7):  # refuses NaN, too
                raise UnreadableImage(f"page {page} has no size: {width} x {height} points")
            scale = self._limits.documents.dpi / _POINTS
            scale = min(scale, math.sqrt(0.99 * self._limits.max_pixels / (width * height)))
            size = max(1, round(width * scale)), max(1, round(height * scale))
            check_size(*size, self._limits)
            self._sizes[page] = size
        return self._sizes[page]

    def render(self, page: int, box: tuple[int, int, int, int], size: tuple[int, int], *, turn: int = 0) -> Image.Image:
        """As `PageSource.render`."""
        across, down = self.size(page)
        if turn in (90, 270):
            across, down = down, across
        left, top, right, bottom = box
        x, y = size[0] / (right - left), size[1] / (bottom - top)
        full = [max(1, round(across * x)), max(1, round(down * y))]
        at = [round(left * x), round(top * y)]
        _, pixels = self._process.ask("render", page=page, full=full, at=at, size=list(size), turn=turn)
        return Image.frombuffer("RGB", size, pixels, "raw", "BGRX", 0, 1)

    def words(self, page: int) -> tuple[Word, ...]:
        """As `PageSource.words`."""
        head, _ = self._process.ask("words", page=self.check(page), most=self._limits.documents.max_words)
        return tuple(Word(*word) for word in head["words"])

    def label(self, page: int) -> str:
        """As `PageSource.label`: the label that the file gives the page, or its number."""
        head, _ = self._process.ask("label", page=self.check(page))
        label = "".join(character for character in str(head["label"]) if character.isprintable()).strip()
        return label[:40] or str(page)

    def close(self) -> None:
        """As `PageSource.close`."""
        self._process.close()
