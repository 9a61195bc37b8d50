"""What a picture costs a model family: the size its processor resizes it to, and the visual tokens of that size.

The arithmetic is that of the `smart_resize` step in transformers' Qwen2-VL image processors (used by Qwen2.5-VL and
Qwen3-VL too), restated in plain numbers so that accounting needs neither numpy nor torch. Tests hold it equal to the
processors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from vtagent.errors import ImageTooLarge

__all__ = ["QWEN2_5_VL", "QWEN3_VL", "VisionSpec"]


@dataclass(frozen=True)
class VisionSpec:
    """What a model family's processor does to the size of an image.

    Attributes:
        patch_size: Side of one vision patch, in pixels.
        merge_size: Patches per side that are merged into one visual token.
        min_pixels: Smaller pictures are enlarged to at least this many pixels.
        max_pixels: Larger pictures are shrunk to at most this many pixels.
        max_aspect: Longest allowed ratio of the sides; the processors raise above it.
    """

    patch_size: int
    merge_size: int
    min_pixels: int
    max_pixels: int
    max_aspect: int = 200

    def __post_init__(self) -> None:
        if min(self.patch_size, self.merge_size, self.min_pixels, self.max_aspect) < 1:
            raise ValueError(f"every number of a VisionSpec must be at least 1: {self}")
        if self.max_pixels < max(self.min_pixels, self.factor**2):
            raise ValueError(
                f"max_pixels must be at least min_pixels ({self.min_pixels}) and one token ({self.factor**2} pixels), "
                f"got {self.max_pixels}"
            )

    @property
    def factor(self) -> int:
        """Side of the square of pixels that becomes one token; every rendered side is a multiple of it."""
        return self.patch_size * self.merge_size

    def snap(self, width: int, height: int) -> tuple[int, int]:
        """The size, (width, height) in pixels, to which the processor resizes a picture of this size.

        Raises:
            ImageTooLarge: The sides differ by more than `max_aspect`, where the processor raises too.
            ValueError: A side is not positive.
        """
        if min(width, height) < 1:
            raise ValueError(f"sides must be at least 1 pixel, got {width}x{height}")
        if max(width, height) > self.max_aspect * min(width, height):
            raise ImageTooLarge(
                f"{width}x{height} is too thin: one side may be at most {self.max_aspect} times the other"
            )
        f = self.factor
        w, h = round(width / f) * f, round(height / f) * f  # round half to even, as the processors do
        if w * h > self.max_pixels:
            shrink = math.sqrt((height * width) / self.max_pixels)
            return max(f, math.floor(width / shrink / f) * f), max(f, math.floor(height / shrink / f) * f)
        if w * h < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (height * width))
            return math.ceil(width * grow / f) * f, math.ceil(height * grow / f) * f
        return w, h

    def fit(self, width: int, height: int) -> tuple[int, int]:
        """The size, (width, height) in pixels, at which a picture is rendered: one the processor then leaves alone.

        This is `snap`, except for the few thin pictures (such as 8200x41) whose snapped size the processor would refuse
        or resize once more; those are squeezed along their longer side.

        Raises:
            ImageTooLarge: As `snap`, or the limits of this spec admit no stable size.
            ValueError: As `snap`.
        """
        size = self.snap(width, height)
        for _ in range(32):  # settles at once or in a few steps; the bound keeps contradictory limits from looping
            w, h = size
            size = min(w, self.max_aspect * h), min(h, self.max_aspect * w)
            if (again := self.snap(*size)) == size:
                return size
            size = again
        raise ImageTooLarge(f"{width}x{height} fits no size of {self.min_pixels} to {self.max_pixels} pixels")

    def low(self, width: int, height: int, scale: float) -> tuple[int, int]:
        """The size, (width, height) in pixels, of a view of reduced scale: `fit`, scaled, and fitted again.

        Args:
            width: Width of the part shown, in pixels of the original.
            height: Height of the part shown, in pixels of the original.
            scale: Sides relative to `fit`, above 0 and at most 1.

        Raises:
            ImageTooLarge: As `snap`.
            ValueError: As `snap`.
        """
        whole = self.fit(width, height)
        if scale == 1:
            return whole
        width, height = max(1, round(whole[0] * scale)), max(1, round(whole[1] * scale))
        low = self.fit(min(width, self.max_aspect * height), min(height, self.max_aspect * width))
        return min(whole, low, key=math.prod)  # what is enlarged to `min_pixels` may come out larger than the whole

    def grid(self, width: int, height: int) -> tuple[int, int, int]:
        """Patches of a picture of this size after `snap`, as the processor's `image_grid_thw`: (1, rows, columns)."""
        w, h = self.snap(width, height)
        return 1, h // self.patch_size, w // self.patch_size

    def tokens(self, width: int, height: int, *, low: bool = False) -> int:
        """Visual tokens of a picture of this size (in pixels, before `snap`); `low` is no setting of these models."""
        _, rows, columns = self.grid(width, height)
        return rows * columns // self.merge_size**2


QWEN2_5_VL = VisionSpec(patch_size=14, merge_size=2, min_pixels=4 * 28**2, max_pixels=16384 * 28**2)
"""Qwen2.5-VL with the limits its checkpoints ship."""

QWEN3_VL = VisionSpec(patch_size=16, merge_size=2, min_pixels=64 * 32**2, max_pixels=16384 * 32**2)
"""Qwen3-VL with the limits its checkpoints ship."""
