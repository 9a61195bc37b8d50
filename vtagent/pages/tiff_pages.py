"""The pages of a TIFF. Each is an image of its own, which is decoded when it is looked at."""

from __future__ import annotations

from functools import partial

from PIL import Image

from vtagent.caches import SharedCache
from vtagent.formats.tiff import page_starts
from vtagent.limits import ImageLimits
from vtagent.pages.source import PageSource
from vtagent.pixels import decode, inspect, turned

__all__ = ["TiffPages"]


class TiffPages(PageSource):
    """A TIFF of one or more pages.

    Args:
        data: The file.
        limits: Limits that it, and each page that is looked at, must meet.
        kept_pixels: Bytes of decoded pages to keep, at 4 bytes per pixel.

    Raises:
        UnreadableImage: Its structure is broken.
        ImageTooLarge: It has too many pages.
    """

    mime_type = "image/tiff"

    def __init__(self, data: bytes, limits: ImageLimits, *, kept_pixels: int = 2**27) -> None:
        self._data, self._limits = data, limits
        self._starts = page_starts(data, limits)
        self.count = len(self._starts)
        self._decoded: SharedCache[int, Image.Image] = SharedCache(
            kept_pixels, lambda image: 4 * image.width * image.height
        )
        self._sizes: dict[int, tuple[int, int]] = {}

    def size(self, page: int) -> tuple[int, int]:
        """As `PageSource.size`."""
        if page not in self._sizes:
            start = self._starts[self.check(page) - 1]
            _, width, height = inspect(self._data, limits=self._limits, directory=start)
            self._sizes[page] = width, height
        return self._sizes[page]

    def render(self, page: int, box: tuple[int, int, int, int], size: tuple[int, int], *, turn: int = 0) -> Image.Image:
        """As `PageSource.render`."""
        across, down = self.size(page)
        make = partial(decode, self._data, limits=self._limits, directory=self._starts[page - 1])
        whole = turned(self._decoded.get(page, make, expected=4 * across * down), turn)
        return whole.crop(box).resize(size, Image.Resampling.BICUBIC)

    def close(self) -> None:
        """As `PageSource.close`."""
        self._decoded.clear()
