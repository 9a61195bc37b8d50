"""Draws places on pages: each page as a picture, with a box around every place."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import ImageDraw

from vtagent.pages.library import Library, PageAt
from vtagent.regions import Region

__all__ = ["save_marked"]

_LONGEST_SIDE = 1600
"""Pixels of the longer side of a picture."""
_RED = "#d00000"


def save_marked(library: Library, marks: Mapping[PageAt, Sequence[Region]], folder: Path) -> list[Path]:
    """Write a PNG of each page, with a box around each region.

    Args:
        library: The documents.
        marks: The regions of each page.
        folder: Created if it is missing. A picture of the same page is replaced.

    Returns:
        The files, in the order of the pages.

    Raises:
        ImageError: A page cannot be drawn.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for at, regions in marks.items():
        ref = library.ref(at)
        scale = min(1.0, _LONGEST_SIDE / max(ref.width, ref.height))
        size = max(1, round(ref.width * scale)), max(1, round(ref.height * scale))
        image = library.store.part(ref.id, (0, 0, ref.width, ref.height), size)
        draw = ImageDraw.Draw(image)
        width = max(2, round(max(size) / 400))
        for region in regions:
            left, top, right, bottom = region.to_pixels(*size)
            draw.rectangle((left - width, top - width, right + width, bottom + width), outline=_RED, width=width)
        name = re.sub(r"[^\w.-]+", "_", library.record(at)["name"])
        path = folder / f"{at.document + 1}-{name}-page{at.page}.png"
        image.save(path)
        files.append(path)
    return files
