"""`PageSource`: one opened file of pages. Sizes, labels, words and pixels of a page are read when asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod

from PIL import Image

from vtagent.errors import ImageNotFound
from vtagent.pages.words import Word

__all__ = ["PageSource"]


class PageSource(ABC):
    """An opened document. Pages are counted from 1; threads may share it."""

    mime_type: str
    """Type of the file."""
    count: int
    """Number of pages, at least 1."""
    damage: str | None = None
    """What is wrong with the file, in one sentence, if it could be read nevertheless."""

    @abstractmethod
    def size(self, page: int) -> tuple[int, int]:
        """The (width, height) in pixels of a page in full, as the file turns it.

        Raises:
            ImageNotFound: There is no such page.
            UnreadableImage: The page is broken.
            ImageTooLarge: It exceeds the limits.
        """

    @abstractmethod
    def render(self, page: int, box: tuple[int, int, int, int], size: tuple[int, int], *, turn: int = 0) -> Image.Image:
        """Draws a part of a page.

        Args:
            page: The number of the page.
            box: (left, top, right, bottom) in pixels of the page in full, after the turn.
            size: (width, height) of the result in pixels.
            turn: Degrees by which the page is turned clockwise.

        Returns:
            An RGB image of that size.

        Raises:
            ImageNotFound, UnreadableImage, ImageTooLarge: As in `size`.
        """

    def words(self, page: int) -> tuple[Word, ...]:
        """The words of the text layer of a page, before any turn; none if it has no text layer.

        Raises:
            ImageNotFound, UnreadableImage, ImageTooLarge: As in `size`.
        """
        self.check(page)
        return ()

    def label(self, page: int) -> str:
        """What is printed as the number of a page, such as "iv"; by default its number."""
        self.check(page)
        return str(page)

    def check(self, page: int) -> int:
        """The number of a page, if there is one.

        Raises:
            ImageNotFound: There is no such page.
        """
        if not 1 <= page <= self.count:
            many = "one page" if self.count == 1 else f"{self.count} pages"
            raise ImageNotFound(f"there is no page {page}: the document has {many}, counted from 1")
        return page

    def close(self) -> None:  # noqa: B027 (nothing to free unless a source says so)
        """Frees what the source holds. It must not be used afterwards."""
