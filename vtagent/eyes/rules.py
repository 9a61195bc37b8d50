"""The rules by which hosted models shrink and bill images, each a small class that satisfies `Vision`.

The numbers that differ between models are fields; `vtagent.eyes.known` fills them in and names their sources.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from vtagent.eyes.vision import MAX_ASPECT, cheaper_size, check_sides, scaled, squeezed

__all__ = ["ClaudePatches", "Gemini2Tiles", "Gemini3Grid", "GptPatches", "GptTiles"]

_ROUNDING = 1e-9  # a quotient that is a whole number may come out a hair below it


@dataclass(frozen=True)
class _Rule:
    """What the rules share: a size is checked, and the provider's resize is what is sent."""

    @property
    def max_aspect(self) -> int:
        """Longest allowed ratio of the sides."""
        return MAX_ASPECT

    def snap(self, width: int, height: int) -> tuple[int, int]:
        """The size to which the provider resizes an image; see `Vision.snap`."""
        return self.fit(width, height)

    def fit(self, width: int, height: int) -> tuple[int, int]:
        """The size at which a whole image is sent; see `Vision.fit`."""
        raise NotImplementedError

    def low(self, width: int, height: int, scale: float) -> tuple[int, int]:
        """The size of a view of reduced scale; see `Vision.low`."""
        return cheaper_size(*self.fit(width, height), scale, self.tokens)

    def tokens(self, width: int, height: int, *, low: bool = False) -> int:
        """Billed tokens of an image sent at this size; see `Vision.tokens`."""
        raise NotImplementedError


@dataclass(frozen=True)
class ClaudePatches(_Rule):
    """Claude: one token per square of 28 pixels, after shrinking to two limits.

    Attributes:
        max_edge: Longest side in pixels, padding to whole squares included.
        max_tokens: Most tokens of one image.
        patch: Side of a square in pixels.
    """

    max_edge: int
    max_tokens: int
    patch: int = 28

    @property
    def factor(self) -> int:
        """Side in pixels of the square that becomes one token."""
        return self.patch

    def bounded(self, side: int) -> ClaudePatches:
        """This rule, for a request that takes no side longer than `side` pixels."""
        return replace(self, max_edge=min(self.max_edge, side))

    def fit(self, width: int, height: int) -> tuple[int, int]:
        """The largest size of the same shape within both limits.

        The short side rounds half to even, as the provider documents.
        """
        check_sides(width, height)
        if self._fits(width, height):
            return width, height
        if height > width:
            fitted_height, fitted_width = self.fit(height, width)
            return fitted_width, fitted_height
        ratio = width / height
        fits, too_large = 1, width
        while fits + 1 < too_large:
            middle = (fits + too_large) // 2
            if self._fits(middle, max(1, round(middle / ratio))):
                fits = middle
            else:
                too_large = middle
        return squeezed(fits, max(1, round(fits / ratio)))

    def tokens(self, width: int, height: int, *, low: bool = False) -> int:
        """Squares that cover the image after shrinking; Claude has no low setting."""
        return self._squares(*self.fit(width, height))

    def _fits(self, width: int, height: int) -> bool:
        padded = -(-max(width, height) // self.patch) * self.patch
        return padded <= self.max_edge and self._squares(width, height) <= self.max_tokens

    def _squares(self, width: int, height: int) -> int:
        return -(-width // self.patch) * -(-height // self.patch)


@dataclass(frozen=True)
class GptTiles(_Rule):
    """GPT-4o and relatives: a base price and a price per tile of 512 pixels; with `detail: low`, the base alone.

    Attributes:
        base: Tokens of any image.
        tile: Tokens of each tile.
        setting: Whether `detail: low` reaches the model. Without it a low view saves by its pixels alone.
        max_edge: The square that an image is shrunk into first, in pixels.
        short_edge: What the short side is shrunk to then, in pixels.
        tile_side: Side of a tile in pixels; with `detail: low`, of the whole image.
    """

    base: int
    tile: int
    setting: bool = True
    max_edge: int = 2048
    short_edge: int = 768
    tile_side: int = 512

    @property
    def factor(self) -> int:
        """Side in pixels of the smallest square worth showing."""
        return 32

    def without_setting(self) -> GptTiles:
        """This rule where `detail` does not reach the model."""
        return replace(self, setting=False)

    def fit(self, width: int, height: int) -> tuple[int, int]:
        """Into the square, rounded; then the short side to its limit, the other rounded down."""
        check_sides(width, height)
        if (longest := max(width, height)) > self.max_edge:
            width, height = scaled(width, height, self.max_edge / longest)
        if (shortest := min(width, height)) > self.short_edge:
            width, height = width * self.short_edge // shortest, height * self.short_edge // shortest
        return squeezed(width, height)

    def low(self, width: int, height: int, scale: float) -> tuple[int, int]:
        """With the setting, what the model keeps of the image: it shrinks it into one tile."""
        if not self.setting or scale >= 1:
            return super().low(width, height, scale)
        width, height = self.fit(width, height)
        return scaled(width, height, min(scale, self.tile_side / max(width, height)))

    def tokens(self, width: int, height: int, *, low: bool = False) -> int:
        """The base, and without `low` the tiles that cover the image after shrinking."""
        width, height = self.fit(width, height)
        if low and self.setting:
            return self.base
        return self.base + self.tile * -(-width // self.tile_side) * -(-height // self.tile_side)


@dataclass(frozen=True)
class GptPatches(_Rule):
    """Later GPT models: squares of 32 pixels, a budget of them, and a multiplier. There is no low setting that saves.

    `detail: low` is the larger budget on some of these models and has no effect on others, so low views save by pixels.

    Attributes:
        multiplier: Billed tokens per square.
        budget: Most squares of one image: a larger one is shrunk (or refused, for the models that shrink none).
        max_edge: Longest side in pixels.
        patch: Side of a square in pixels.
    """

    multiplier: float
    budget: int
    max_edge: int
    patch: int = 32

    @property
    def factor(self) -> int:
        """Side in pixels of the square that is billed."""
        return self.patch

    def fit(self, width: int, height: int) -> tuple[int, int]:
        """Into the longest side, rounded; then into the budget, rounded down."""
        check_sides(width, height)
        if (longest := max(width, height)) > self.max_edge:
            width, height = scaled(width, height, self.max_edge / longest)
        if self._squares(width, height) > self.budget:
            shrink = self.patch * math.sqrt(self.budget / (width * height))
            columns, rows = width * shrink / self.patch, height * shrink / self.patch
            whole = min(max(1, _floor(columns)) / columns, max(1, _floor(rows)) / rows, 1.0)
            width, height = max(1, _floor(width * shrink * whole)), max(1, _floor(height * shrink * whole))
        return squeezed(width, height)

    def tokens(self, width: int, height: int, *, low: bool = False) -> int:
        """Squares that cover the image after shrinking, times the multiplier, rounded up."""
        return math.ceil(round(self._squares(*self.fit(width, height)) * self.multiplier, 6))

    def _squares(self, width: int, height: int) -> int:
        return -(-width // self.patch) * -(-height // self.patch)


@dataclass(frozen=True)
class Gemini2Tiles(_Rule):
    """Gemini 2: one price up to 384 x 384 pixels, the same price per tile of 768 pixels above.

    Attributes:
        tile: Tokens of a small image and of each tile.
        small_side: Longest side of a small image in pixels.
        tile_side: Side of a tile in pixels.
    """

    tile: int = 258
    small_side: int = 384
    tile_side: int = 768

    @property
    def factor(self) -> int:
        """Side in pixels of about one token of a tile."""
        return 48

    def fit(self, width: int, height: int) -> tuple[int, int]:
        """The image as it is: no shrinking is documented."""
        check_sides(width, height)
        return width, height

    def tokens(self, width: int, height: int, *, low: bool = False) -> int:
        """One tile's tokens for each tile that covers the image; the API takes no setting per image."""
        width, height = self.fit(width, height)
        if max(width, height) <= self.small_side:
            return self.tile
        return self.tile * -(-width // self.tile_side) * -(-height // self.tile_side)


@dataclass(frozen=True)
class Gemini3Grid(_Rule):
    """Gemini 3: not by pixels but by `media_resolution`: a grid of the image's shape within the setting's budget.

    Attributes:
        budget: Most tokens at the default setting.
        low_budget: Most tokens at the low setting.
        setting: Whether `media_resolution` reaches the model. Without it every view costs what the whole costs, and a
            low view is the whole.
        cell: Assumed side in pixels of what one token shows; decides the size that is sent, not the bill.
    """

    budget: int = 1120
    low_budget: int = 280
    setting: bool = True
    cell: int = 48

    @property
    def factor(self) -> int:
        """Assumed side in pixels of what one token shows."""
        return self.cell

    def without_setting(self) -> Gemini3Grid:
        """This rule where `media_resolution` does not reach the model."""
        return replace(self, setting=False)

    def fit(self, width: int, height: int) -> tuple[int, int]:
        """As many pixels as the default budget can show."""
        return self._within(width, height, self.budget)

    def low(self, width: int, height: int, scale: float) -> tuple[int, int]:
        """As many pixels as the low budget can show and the scale asks for; without the setting, the whole."""
        width, height = self.fit(width, height)
        if scale >= 1 or not self.setting:
            return width, height
        return self._within(*scaled(width, height, scale), self.low_budget)

    def tokens(self, width: int, height: int, *, low: bool = False) -> int:
        """Cells of the largest grid of the image's shape within the budget; small images are not cheaper."""
        width, height = self.fit(width, height)
        budget = self.low_budget if low and self.setting else self.budget
        columns = min(max(1, _floor(math.sqrt(budget * width / height))), budget)
        rows = min(max(1, _floor(math.sqrt(budget * height / width))), budget)
        return columns * rows if columns * rows <= budget else budget

    def _within(self, width: int, height: int, budget: int) -> tuple[int, int]:
        check_sides(width, height)
        pixels = budget * self.cell**2
        if width * height <= pixels:
            return width, height
        shrink = math.sqrt(pixels / (width * height))
        return squeezed(max(1, _floor(width * shrink)), max(1, _floor(height * shrink)))


def _floor(value: float) -> int:
    return math.floor(value + _ROUNDING)
