"""Regions: boxes of integers 0-1000 on an image. They are parsed tolerantly and stored in one strict form.

Both axes run 0-1000 whatever the image's shape; (0, 0) is the top left corner of the upright image. No region means the
whole image.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass

from vtagent.errors import RegionError
from vtagent.visual_tokens import VisionSpec

__all__ = ["SCALE", "Region", "parse_region"]

SCALE = 1000
"""Length of both axes in region units."""

NEAR_EDGE = 1010
"""A coordinate from 1001 to this value could be a pixel or a wrong value in 0-1000, so it is refused."""


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

    def fitted(self, width: int, height: int, spec: VisionSpec) -> Region:
        """Returns this region, grown about its centre until the model can process it.

        Each side covers at least the original pixels of one visual token (or the image's whole side), and the longer
        side is at most `spec.max_aspect` times the shorter.

        Args:
            width: Width of the upright original, in pixels.
            height: Height of the upright original, in pixels.
            spec: Image sizes of the model family.
        """
        x1, x2 = _grow(self.x1, self.x2, min(spec.factor, width), width)
        y1, y2 = _grow(self.y1, self.y2, min(spec.factor, height), height)
        left, top, right, bottom = Region(x1, y1, x2, y2).to_pixels(width, height)
        x1, x2 = _grow(x1, x2, min(width, math.ceil((bottom - top) / spec.max_aspect)), width)
        y1, y2 = _grow(y1, y2, min(height, math.ceil((right - left) / spec.max_aspect)), height)
        return Region(x1, y1, x2, y2)


def parse_region(value: object, *, width: int, height: int) -> Region | None:
    """Parses a region in any form that models and people write.

    Accepts a list of four numbers, the same as JSON or comma-separated text, two corner points, or an object with
    x1, y1, x2, y2 (or left, top, right, bottom; or x, y, width, height). Fractions 0-1, pixels of the original and
    swapped corners are recognised where they are unambiguous.

    Args:
        value: The region as written. None, blank text and an empty list or object mean the whole image.
        width: Width of the upright original, in pixels.
        height: Height of the upright original, in pixels.

    Returns:
        The region, or None for the whole image.

    Raises:
        RegionError: The region is invalid or could mean two things. The message is written for the model to act on.

    Example:
        >>> parse_region([0.25, 0.5, 0.75, 1.0], width=1200, height=800)
        Region(x1=250, y1=500, x2=750, y2=1000)
    """
    numbers = _numbers(value)
    if numbers is None:
        return None

    def refuse(why: str) -> RegionError:
        return RegionError(
            f"region {_clip(value)}: {why}; give [x1, y1, x2, y2] as integers 0-{SCALE}, left to right, top to bottom "
            f"(the image is {width}x{height} pixels), or leave the region out for the whole image"
        )

    if len(numbers) != 4:
        raise refuse("needs four numbers")
    if not all(0 <= number < 1e9 for number in numbers):  # refuses NaN, too
        raise refuse("coordinates must be finite and not negative")
    x1, y1, x2, y2 = numbers
    if x1 > x2 or y1 > y2:
        # [x, y, width, height] also looks like swapped corners when it fits on the image.
        right, bottom = (1, 1) if max(numbers) <= 1 else (SCALE, SCALE) if max(numbers) <= SCALE else (width, height)
        if min(x2, y2) > 0 and x1 + x2 <= right and y1 + y2 <= bottom:
            raise refuse("could be swapped corners or [x, y, width, height]")
    x1, x2, y1, y2 = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
    if x1 == x2 or y1 == y2:
        raise refuse("is empty")
    if max(x2, y2) <= 1:
        if all(isinstance(number, int) for number in numbers):
            raise refuse("could be a fraction of the image or its very corner")
        return _outwards(x1, y1, x2, y2, 1, 1)
    if any(0 < number < 1 for number in numbers):
        raise refuse("mixes fractions 0-1 with larger numbers")
    if max(x2, y2) <= SCALE:
        return _outwards(x1, y1, x2, y2, SCALE, SCALE)
    if x2 > width or y2 > height:
        raise refuse("lies outside the image")
    if max(x2, y2) <= NEAR_EDGE and x2 != width and y2 != height:
        raise refuse(f"runs past {SCALE}, and could be pixels or a slip")
    return _outwards(x1, y1, x2, y2, width, height)


def _outwards(x1: float, y1: float, x2: float, y2: float, width: int, height: int) -> Region | None:
    """Returns the region that covers a box on a `width` x `height` plane, rounded outwards; None for all of it."""
    low_x, low_y = math.floor(_units(x1, width)), math.floor(_units(y1, height))
    region = Region(low_x, low_y, math.ceil(_units(x2, width)), math.ceil(_units(y2, height)))
    return None if region.is_whole else region


def _units(value: float, extent: int) -> float:
    """Converts a coordinate to region units, without rounding errors: 0.07 is 70, not 70.00000000000001."""
    return round(value * SCALE / extent, 6)


def _grow(low: int, high: int, pixels: int, extent: int) -> tuple[int, int]:
    """Grows a span, in region units of an axis of `extent` pixels, until it covers `pixels` of them."""
    need = -(-pixels * SCALE // extent)
    if high - low >= need:
        return low, high
    low = min(max(0, low - (need - (high - low)) // 2), SCALE - need)
    return low, low + need


def _numbers(value: object) -> list[int | float] | None:
    """Returns the numbers of a written region in the order x1, y1, x2, y2; None if nothing is written."""
    if isinstance(value, Region):
        return list(value)
    if isinstance(value, str):
        text = value.strip()
        if text.lower() in ("", "null", "none"):
            return None
        try:
            value = json.loads(text if text[0] in "[{" else f"[{text.strip('()')}]")
        except (ValueError, RecursionError):
            raise RegionError(f"region {_clip(value)} is not four numbers; write [x1, y1, x2, y2]") from None
    if isinstance(value, Mapping):
        if not value:
            return None
        for names in (("x1", "y1", "x2", "y2"), ("left", "top", "right", "bottom"), ("x", "y", "width", "height")):
            if set(names) == set(value):
                numbers = _numbers([value[name] for name in names]) or []
                if "width" in names:
                    x, y, w, h = numbers
                    return [x, y, x + w, y + h] if min(w, h) > 0 else [x, y, x, y]
                return numbers
        raise RegionError(f"region {_clip(value)} needs exactly x1, y1, x2 and y2")
    if value is None:
        return None
    if not isinstance(value, list | tuple):
        raise RegionError(f"region {_clip(value)} is not a list of four numbers; write [x1, y1, x2, y2]")
    if len(value) == 2 and all(isinstance(corner, list | tuple) and len(corner) == 2 for corner in value):
        value = [*value[0], *value[1]]
    elif len(value) == 1 and isinstance(value[0], list | tuple):
        value = value[0]
    numbers = []
    for number in value:
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise RegionError(f"region {_clip(value)} must hold numbers only; write [x1, y1, x2, y2]")
        numbers.append(number)
    return numbers or None


def _clip(value: object) -> str:
    """Returns `value` on one short line, for a message."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."
