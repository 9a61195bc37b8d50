"""What a view must know of a model's image processing: `Vision`, and the arithmetic that its rules share.

Sizes are (width, height) in pixels; tokens are those that the provider bills for one image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from vtagent.errors import ImageTooLarge

__all__ = ["MAX_ASPECT", "Vision", "cheaper_size", "check_sides", "scaled", "squeezed"]

MAX_ASPECT = 200
"""Longest allowed ratio of the sides. Providers state none; this is the limit of the Qwen processors."""

LOW_SLACK = 1.2
"""A low view may cost this many times the share that its scale asks for: 30 % where a quarter is asked for."""


@runtime_checkable
class Vision(Protocol):
    """How one model shrinks an image and what it bills for it. `VisionSpec` is one; `vtagent.eyes.rules` has others."""

    def __hash__(self) -> int:
        """Sizes and pixels are kept by it."""

    @property
    def factor(self) -> int:
        """Side in pixels of the smallest square worth showing; about one token."""

    @property
    def max_aspect(self) -> int:
        """Longest allowed ratio of the sides."""

    def snap(self, width: int, height: int) -> tuple[int, int]:
        """The size to which the provider resizes an image of this size.

        Raises:
            ImageTooLarge: The sides differ by more than `max_aspect`.
            ValueError: A side is not positive.
        """

    def fit(self, width: int, height: int) -> tuple[int, int]:
        """The size at which a whole image is sent: the largest that the provider does not shrink again.

        Raises:
            ImageTooLarge: As `snap`.
            ValueError: As `snap`.
        """

    def low(self, width: int, height: int, scale: float) -> tuple[int, int]:
        """The size at which an image is sent for a view of reduced scale.

        Args:
            width: Width of the part shown, in pixels of the original.
            height: Height of the part shown, in pixels of the original.
            scale: Sides relative to `fit`, above 0 and at most 1. The result may be smaller, so that the bill shrinks.

        Raises:
            ImageTooLarge: As `snap`.
            ValueError: As `snap`.
        """

    def tokens(self, width: int, height: int, *, low: bool = False) -> int:
        """Billed tokens of an image sent at this size.

        Args:
            width: Width as sent, in pixels.
            height: Height as sent, in pixels.
            low: Whether the image carries the model's low setting, where it has one (see `Eyes.low_setting`).

        Raises:
            ImageTooLarge: As `snap`.
            ValueError: As `snap`.
        """


def check_sides(width: int, height: int, max_aspect: int = MAX_ASPECT) -> None:
    """Refuse a size that cannot be shown.

    Raises:
        ImageTooLarge: The sides differ by more than `max_aspect`.
        ValueError: A side is not positive.
    """
    if min(width, height) < 1:
        raise ValueError(f"sides must be at least 1 pixel, got {width}x{height}")
    if max(width, height) > max_aspect * min(width, height):
        raise ImageTooLarge(f"{width}x{height} is too thin: one side may be at most {max_aspect} times the other")


def squeezed(width: int, height: int, max_aspect: int = MAX_ASPECT) -> tuple[int, int]:
    """The size with its longer side cut to the limit that rounding may have pushed it over."""
    return min(width, max_aspect * height), min(height, max_aspect * width)


def scaled(width: int, height: int, scale: float) -> tuple[int, int]:
    """The size with both sides scaled, rounded to whole pixels, at least 1."""
    return squeezed(max(1, round(width * scale)), max(1, round(height * scale)))


def cheaper_size(
    width: int, height: int, scale: float, tokens: Callable[[int, int], int], *, slack: float = LOW_SLACK
) -> tuple[int, int]:
    """The largest size within `scale` whose bill shrinks as the scale asks.

    The bill may be `slack` x scale² of the whole's. Where no size is that cheap, as with a rule that bills whole tiles,
    it is the largest of the cheapest.

    Args:
        width: Width of the whole as sent, in pixels.
        height: Height of the whole as sent, in pixels.
        scale: Sides relative to the whole, above 0 and at most 1.
        tokens: Bill of a size; must not fall as a side grows.
        slack: Times the share that the scale asks for.
    """
    if scale >= 1:
        return width, height
    budget = max(int(slack * scale**2 * tokens(width, height)), tokens(1, 1))
    longest = max(width, height)
    fits, too_large = 1, max(1, round(longest * scale)) + 1
    while fits + 1 < too_large:
        middle = (fits + too_large) // 2
        if tokens(*scaled(width, height, middle / longest)) <= budget:
            fits = middle
        else:
            too_large = middle
    return scaled(width, height, fits / longest)
