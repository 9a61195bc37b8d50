"""What a model bills for images at once, for their low views, and for a typical zoom. No model is called."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vtagent.eyes import Vision
from vtagent.images import ImageRef, MemoryImageStore
from vtagent.pages.library import Library, take_in_paths
from vtagent.regions import Region
from vtagent.views import View

__all__ = ["LOW_SCALE", "TYPICAL_ZOOM", "Bill", "bill_of", "images_in"]

LOW_SCALE = 0.5
"""Scale of a low view, as in `ZoomContext`."""

TYPICAL_ZOOM = Region(250, 250, 750, 750)
"""The region that stands for a zoom: the middle half of both sides."""


@dataclass(frozen=True)
class Bill:
    """Visual tokens that one model bills for some images.

    Attributes:
        whole: All images at full resolution at once.
        low: All of them as low views.
        zoom: One zoom into each, to the middle half of both sides at full resolution.
    """

    whole: int = 0
    low: int = 0
    zoom: int = 0

    def __add__(self, other: Bill) -> Bill:
        return Bill(self.whole + other.whole, self.low + other.low, self.zoom + other.zoom)

    @property
    def low_and_zoom(self) -> int:
        """The low views and a zoom into each image."""
        return self.low + self.zoom

    @property
    def low_share(self) -> float:
        """The low views, as a share of the images at once."""
        return self.low / self.whole

    @property
    def low_and_zoom_share(self) -> float:
        """The low views and a zoom into each image, as a share of the images at once."""
        return self.low_and_zoom / self.whole

    @property
    def break_even(self) -> float:
        """Zooms per image at which looking low first costs as much as all at once; below it is cheaper."""
        return max(0, self.whole - self.low) / self.zoom


def bill_of(images: Iterable[ImageRef], vision: Vision) -> Bill:
    """Returns what a model bills for images.

    Args:
        images: The images; only their sizes count.
        vision: How the model bills.

    Raises:
        ImageTooLarge: An image is too long and thin for the model.
    """
    total = Bill()
    for ref in images:
        region = TYPICAL_ZOOM.fitted(ref.width, ref.height, vision)
        whole, low, zoom = View(ref), View(ref, LOW_SCALE), View(ref, region=region)
        total += Bill(whole.tokens(vision), low.tokens(vision), zoom.tokens(vision))
    return total


def images_in(path: Path) -> list[tuple[str, ImageRef]]:
    """Returns the images of a file or a folder: one of an image, one a page of a document, each with its name.

    Nothing is kept. An image is decoded once to check that it is complete; a page of a PDF is not drawn.

    Raises:
        ImageError: A file is missing, broken, too large or no image; the text names it.
        DataError: A folder holds no image and no PDF.
    """
    store = MemoryImageStore()
    library = Library(take_in_paths([path], store), store)
    found = []
    for at in library:
        record = library.record(at)
        name = f"{path}#page={at.page}" if record["pages"] > 1 else str(path)
        found.append((name, store.ref(library.id(at))))
    return found
