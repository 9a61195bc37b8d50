"""Contact sheets: many pages on one image, small and numbered, for a model that chooses pages by their looks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from vtagent.encoding import encode
from vtagent.errors import ImageError
from vtagent.pages.library import Library, PageAt
from vtagent.store import ImageRef

__all__ = ["Sheet", "make_sheet"]

_BAR = 26
"""Height of the bar with a page's number, in pixels."""


@dataclass(frozen=True)
class Sheet:
    """A contact sheet in the store.

    Attributes:
        ref: The image.
        pages: The pages on it, row by row; each shows its number among all pages of the library.
    """

    ref: ImageRef
    pages: tuple[PageAt, ...]


def make_sheet(library: Library, pages: Sequence[PageAt], *, width: int = 240, columns: int = 4) -> Sheet:
    """Draws pages side by side, each small and under its number, and puts the image into the library's store.

    A page that cannot be drawn leaves its place white.

    Args:
        library: The documents.
        pages: At least one page.
        width: Width of a page on the sheet, in pixels; pages are at most 1.5 times as high.
        columns: Pages in a row.
    """
    across, high = min(columns, len(pages)), round(1.5 * width)
    down = math.ceil(len(pages) / across)
    canvas = Image.new("RGB", (across * (width + 4), down * (high + _BAR + 4)), "#888888")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(_BAR - 6)
    for place, at in enumerate(pages):
        x, y = place % across * (width + 4), place // across * (high + _BAR + 4)
        draw.rectangle((x, y, x + width - 1, y + _BAR - 1), fill="black")
        draw.text((x + 6, y + 1), str(library.number(at)), fill="white", font=font)
        canvas.paste("white", (x, y + _BAR, x + width, y + _BAR + high))
        try:
            ref = library.ref(at)
            scale = min(width / ref.width, high / ref.height)
            size = max(1, round(ref.width * scale)), max(1, round(ref.height * scale))
            canvas.paste(library.store.part(ref.id, (0, 0, ref.width, ref.height), size), (x, y + _BAR))
        except ImageError:  # broken pages do not keep the others from being seen
            continue
    return Sheet(library.store.put(encode(canvas).data), tuple(pages))
