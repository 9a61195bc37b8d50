"""What an image costs a model family: the size that its processor resizes the image to, and the visual tokens of it.

The arithmetic is `smart_resize` of transformers' Qwen2-VL image processors, which Qwen2.5-VL and Qwen3-VL use too. Here
it needs neither numpy nor torch. Tests compare it with the processors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from vtagent.errors import ImageTooLarge

__all__ = ["QWEN2_5_VL", "QWEN3_VL", "VisionSpec"]


@dataclass(frozen=True)
class VisionSpec:
    """How a model family's processor changes the size of an image.

    Attributes:
        patch_size: Side of one vision patch, in pixels.
        merge_size: Patches per side that are merged into one visual token.
        min_pixels: Smaller images are enlarged to at least this many pixels.
        max_pixels: Larger images are reduced to at most this many pixels.
        max_aspect: Largest allowed ratio of the sides; the processors raise above it.

    Raises:
        ValueError: The numbers contradict each other.
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
        """Side of the square that becomes one visual token, in pixels. Every rendered side is a multiple of it."""
        return self.patch_size * self.merge_size

    def snap(self, width: int, height: int) -> tuple[int, int]:
        """The size to which the processor resizes an image.

        Args:
            width: The image's width, in pixels.
            height: The image's height, in pixels.

        Returns:
            (width, height), in pixels.

        Raises:
            ImageTooLarge: The ratio of the sides is above `max_aspect`. The processor raises too.
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
        """The size at which an image is rendered, so that the processor does not resize it.

        This is `snap`, except for a few thin images (such as 8200x41) whose snapped size the processor would refuse or
        resize again. Their longer side is shortened.

        Args:
            width: The image's width, in pixels.
            height: The image's height, in pixels.

        Returns:
            (width, height), in pixels.

        Raises:
            ImageTooLarge: As `snap`; or the limits of this spec allow no stable size.
            ValueError: As `snap`.
        """
        size = self.snap(width, height)
        for _ in range(32):  # a few steps are enough; the bound ends the loop where the limits contradict each other
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
        """The patches of an image after `snap`, as in the processor's `image_grid_thw`.

        Args:
            width: The image's width before `snap`, in pixels.
            height: The image's height before `snap`, in pixels.

        Returns:
            (1, rows, columns), in patches.
        """
        w, h = self.snap(width, height)
        return 1, h // self.patch_size, w // self.patch_size

    def tokens(self, width: int, height: int, *, low: bool = False) -> int:
        """The visual tokens of an image.

        Args:
            width: The image's width before `snap`, in pixels.
            height: The image's height before `snap`, in pixels.
            low: Ignored: these models have no low setting.
        """
        _, rows, columns = self.grid(width, height)
        return rows * columns // self.merge_size**2


QWEN2_5_VL = VisionSpec(patch_size=14, merge_size=2, min_pixels=4 * 28**2, max_pixels=16384 * 28**2)
"""Qwen2.5-VL, with the limits of its published checkpoints."""

QWEN3_VL = VisionSpec(patch_size=16, merge_size=2, min_pixels=64 * 32**2, max_pixels=16384 * 32**2)
"""Qwen3-VL, with the limits of its published checkpoints."""
