"""Regions: boxes of integers 0-1000 on an image. A model writes them in its own convention; they are stored in one.

Both axes run 0-1000 whatever the image's shape; (0, 0) is the top left corner of the upright image. No region means the
whole image.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass
from fractions import Fraction

from vtagent.errors import RegionError
from vtagent.eyes.facts import Boxes
from vtagent.eyes.vision import Vision

__all__ = ["SCALE", "Region", "parse_region"]

SCALE = 1000
"""Length of both axes in region units."""


@dataclass(frozen=True, order=True)
class Region:
    """The box from (x1, y1) to (x2, y2), in thousandths of the upright original's sides.

    Raises:
        RegionError: A coordinate is not an integer 0-1000, or the box is empty.
    """

    x1: int
    y1: int
    x2: int
    y2: int

    def __post_init__(self) -> None:
        for value in self:
            if type(value) is not int or not 0 <= value <= SCALE:
                raise RegionError(f"region coordinates must be integers from 0 to {SCALE}, got {_clip(value)}")
        if self.x1 >= self.x2 or self.y1 >= self.y2:
            raise RegionError(f"region {self} is empty: x1 must be less than x2, and y1 less than y2")

    def __iter__(self) -> Iterator[int]:
        return iter(astuple(self))

    def __str__(self) -> str:
        return ",".join(str(value) for value in self)

    @property
    def is_whole(self) -> bool:
        """Whether the region is the whole image, which views store as no region."""
        return self == Region(0, 0, SCALE, SCALE)

    def contains(self, other: Region) -> bool:
        """Returns whether `other` lies inside this region, edges included."""
        return self.x1 <= other.x1 and self.y1 <= other.y1 and other.x2 <= self.x2 and other.y2 <= self.y2

    def to_pixels(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Converts the region to pixels of a `width` x `height` image, rounded outwards so that it is never empty.

        Returns:
            (left, top, right, bottom).
        """
        return (
            self.x1 * width // SCALE,
            self.y1 * height // SCALE,
            -(-self.x2 * width // SCALE),
            -(-self.y2 * height // SCALE),
        )

    def fitted(self, width: int, height: int, spec: Vision) -> Region:
        """Returns this region, grown about its centre until the model can process it.

        Each side covers at least the original pixels of one visual token (or the image's whole side), and the longer
        side is at most `spec.max_aspect` times the shorter.

        Args:
            width: Width of the upright original, in pixels.
            height: Height of the upright original, in pixels.
            spec: What the model does to the size of an image.
        """
        x1, x2 = _grow(self.x1, self.x2, min(spec.factor, width), width)
        y1, y2 = _grow(self.y1, self.y2, min(spec.factor, height), height)
        left, top, right, bottom = Region(x1, y1, x2, y2).to_pixels(width, height)
        x1, x2 = _grow(x1, x2, min(width, math.ceil((bottom - top) / spec.max_aspect)), width)
        y1, y2 = _grow(y1, y2, min(height, math.ceil((right - left) / spec.max_aspect)), height)
        return Region(x1, y1, x2, y2)


def parse_region(
    value: object,
    *,
    width: int,
    height: int,
    boxes: Boxes = "thousandths",
    shown: tuple[int, int] | None = None,
    part: tuple[int, int, int, int] | None = None,
    name: str = "region",
) -> Region | None:
    """Parses a box as a model writes it, in the model's own convention and in no other.

    Accepts a list of four numbers, the same as JSON or comma-separated text, two corner points, or an object with
    x1, y1, x2, y2 (or left, top, right, bottom; xmin, ymin, xmax, ymax; x, y, width, height). What cannot be in the
    convention is refused: numbers beyond the view or beyond 1000, fractions 0-1, swapped corners.

    Args:
        value: The box as written. None, blank text and an empty list or object mean the whole image.
        width: Width of the upright original, in pixels.
        height: Height of the upright original, in pixels.
        boxes: How the model writes a box.
        shown: Size in pixels of the view that the box is written on, as the model was shown it; by default the size of
            the original. Decides what "pixels as shown" mean.
        part: The part of the original that this view shows, as (left, top, right, bottom) in pixels of the original;
            by default all of it.
        name: What the model calls the argument, for messages.

    Returns:
        The region of the original, rounded outwards, or None for the whole image.

    Raises:
        RegionError: The box cannot be in the convention. The message is written for the model to act on.

    Example:
        >>> parse_region([250, 500, 750, 1000], width=1200, height=800)
        Region(x1=250, y1=500, x2=750, y2=1000)
        >>> parse_region([150, 200, 450, 400], width=1200, height=800, boxes="pixels as shown", shown=(600, 400))
        Region(x1=250, y1=500, x2=750, y2=1000)
    """
    if isinstance(value, Region):
        return None if value.is_whole else value
    across, down = shown or (width, height)
    pixels = boxes == "pixels as shown"
    order = "[y1, x1, y2, x2]" if boxes == "thousandths, y first" else "[x1, y1, x2, y2]"
    numbers = _numbers(value, name, order, y_first=boxes == "thousandths, y first")
    if numbers is None:
        return None

    def refuse(why: str) -> RegionError:
        units = (
            f"in pixels of the image as it was shown last, {across} x {down}"
            if pixels
            else f"as integers 0-{SCALE} of the image's width and height"
        )
        size = "" if pixels else f" (the image is {width}x{height} pixels)"
        return RegionError(
            f"{name} {_clip(value)}: {why}; give {order} {units}, left to right, top to bottom{size}, or leave it out "
            "for the whole image"
        )

    if len(numbers) != 4:
        raise refuse("needs four numbers")
    if not all(0 <= number < 1e9 for number in numbers):  # refuses NaN, too
        raise refuse("coordinates must be finite and not negative")
    x1, y1, x2, y2 = numbers
    if max(numbers) <= 1:
        raise refuse("could be fractions of the image or its very corner")
    if any(0 < number < 1 for number in numbers):
        raise refuse("mixes fractions 0-1 with larger numbers")
    if pixels and (max(x1, x2) > across or max(y1, y2) > down):
        raise refuse(f"lies outside the image, which was shown at {across} x {down}")
    if not pixels and max(numbers) > SCALE:
        raise refuse(f"runs past {SCALE}")
    if x1 == x2 or y1 == y2:
        raise refuse("is empty")
    if x1 > x2 or y1 > y2:
        raise refuse("could be swapped corners or [x, y, width, height]")
    unit_x, unit_y = (across, down) if pixels else (SCALE, SCALE)
    left, top, right, bottom = part or (0, 0, width, height)

    def place(value: float, unit: int, low: int, high: int, extent: int) -> Fraction:
        return (low + Fraction(value) / unit * (high - low)) * SCALE / extent

    region = Region(
        math.floor(place(x1, unit_x, left, right, width)),
        math.floor(place(y1, unit_y, top, bottom, height)),
        math.ceil(place(x2, unit_x, left, right, width)),
        math.ceil(place(y2, unit_y, top, bottom, height)),
    )
    return None if region.is_whole else region


def _grow(low: int, high: int, pixels: int, extent: int) -> tuple[int, int]:
    """Grows a span, in region units of an axis of `extent` pixels, until it covers `pixels` of them."""
    need = -(-pixels * SCALE // extent)
    if high - low >= need:
        return low, high
    low = min(max(0, low - (need - (high - low)) // 2), SCALE - need)
    return low, low + need


_NAMES = (
    ("x1", "y1", "x2", "y2"),
    ("left", "top", "right", "bottom"),
    ("xmin", "ymin", "xmax", "ymax"),
    ("x", "y", "width", "height"),
)
"""The keys under which an object may hold a box. Names say which number is which, whatever the convention's order."""


def _numbers(value: object, name: str, order: str, *, y_first: bool) -> list[int | float] | None:
    """The numbers of a written box in the order x1, y1, x2, y2; None if nothing is written."""
    if isinstance(value, str):
        text = value.strip()
        if text.lower() in ("", "null", "none"):
            return None
        try:
            value = json.loads(text if text[0] in "[{" else f"[{text.strip('()')}]")
        except (ValueError, RecursionError):
            raise RegionError(f"{name} {_clip(value)} is not four numbers; write {order}") from None
    if isinstance(value, Mapping):
        if not value:
            return None
        for names in _NAMES:
            if set(names) == set(value):
                numbers = _checked([value[key] for key in names], name, order)
                if "width" in names and len(numbers) == 4:
                    x, y, w, h = numbers
                    return [x, y, x + w, y + h] if min(w, h) > 0 else [x, y, x, y]
                return numbers
        raise RegionError(f"{name} {_clip(value)} needs exactly x1, y1, x2 and y2")
    if value is None:
        return None
    if not isinstance(value, list | tuple):
        raise RegionError(f"{name} {_clip(value)} is not a list of four numbers; write {order}")
    if len(value) == 2 and all(isinstance(corner, list | tuple) and len(corner) == 2 for corner in value):
        value = [*value[0], *value[1]]
    elif len(value) == 1 and isinstance(value[0], list | tuple):
        value = value[0]
    numbers = _checked(value, name, order)
    if y_first and len(numbers) == 4:
        y1, x1, y2, x2 = numbers
        return [x1, y1, x2, y2]
    return numbers or None


def _checked(values: Iterable[object], name: str, order: str) -> list[int | float]:
    """The values, if all of them are numbers."""
    numbers: list[int | float] = []
    for number in values:
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise RegionError(f"{name} must hold numbers only, not {_clip(number)}; write {order}")
        numbers.append(number)
    return numbers


def _clip(value: object) -> str:
    """Returns `value` on one short line, for a message."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."
