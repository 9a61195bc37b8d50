"""Renders a small document (a card, form or receipt) from a seed: its pixels, its fields and the place of every glyph.

This module defines the domain of the bundled policies; `vtagent/policies/*/README.md` describes it for users. A page
holds two to four fields of one print size. Print size is the height of a capital in pixels, because fonts of one
nominal size differ by a third in that height. Large print at half the sides is as tall as small print at full size: a
quarter of the pixels is enough to read large print and far too little for small print.
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vtagent.training.documents.values import PRINTED, Field, draw_page

CARD = (224, 160)
"""Width and height of a page in pixels."""

PrintSize = Literal["large", "medium", "small"]

CAPITAL_HEIGHT: dict[PrintSize, tuple[float, float]] = {
    "large": (14.0, 16.0),
    "medium": (10.5, 13.0),
    "small": (7.0, 8.0),
}
"""Least and greatest height of a capital letter in pixels."""

PILLOW_FONT = "Aileron"
TRAINING_FONTS = (
    PILLOW_FONT,
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSansMono",
    "DejaVuSerif",
    "STIXGeneral",
    "cmss10",
)
HELD_OUT_FONTS = ("DejaVuSans-Oblique", "DejaVuSansMono-Bold", "DejaVuSerif-Bold", "STIXGeneralBol")
"""Fonts that training never shows; only `WIDE_LOOK` uses them."""

LAYOUTS = ("card", "form", "receipt")


@dataclass(frozen=True)
class Look:
    """The ranges from which the appearance of a page is drawn. A pair is (least, greatest) unless its text differs."""

    fonts: tuple[str, ...] = TRAINING_FONTS
    tilt: float = 2.0
    """Greatest rotation in degrees, in either direction."""
    least_tilt: float = 0.0
    """Least rotation in degrees."""
    noise: tuple[float, float] = (0.0, 5.0)
    """Standard deviation of the paper's noise in grey levels."""
    jpeg: tuple[int, int] = (55, 95)
    """JPEG quality. Half of the pages are not compressed."""
    margin: tuple[int, int] = (6, 6)
    """Least distance of print from the page's edge in pixels: (horizontal, vertical)."""
    edge: tuple[int, int] | None = None
    """Greatest distance of print from that margin in pixels: (horizontal, vertical). None: print may stand anywhere."""
    paper: tuple[int, int] = (232, 255)
    """Grey level of the paper, 0 to 255. Each colour channel may be up to 8 levels darker."""
    ink: tuple[int, int] = (0, 60)
    """Grey level of the ink, 0 to 255. Each colour channel may be up to 24 levels lighter."""


TRAINING_LOOK = Look()
WIDE_LOOK = Look(
    fonts=HELD_OUT_FONTS, tilt=2.5, least_tilt=2.0, noise=(5.0, 8.0), jpeg=(40, 55), margin=(2, 3), edge=(4, 2)
)
"""Fonts, tilt, noise, compression and margins that training never shows. Print stands nearer to the edges."""


@dataclass(frozen=True)
class Glyph:
    """A printed character and its place on the finished page. A glyph outside the page has a place outside it."""

    char: str
    x: float
    """Centre of the character, in pixels from the left edge of the page."""
    y: float
    """Centre of the character, in pixels from the top edge of the page."""


@dataclass(frozen=True)
class Document:
    """A rendered page."""

    image: Image.Image
    """RGB."""
    fields: tuple[Field, ...]
    """From top to bottom."""
    print_size: PrintSize
    font: str
    layout: str
    """One of `LAYOUTS`."""
    tilt: float
    """Rotation in degrees, counter-clockwise."""
    glyphs: tuple[Glyph, ...] = field(repr=False)


class _Text(NamedTuple):
    """A text and the place of its left end on the baseline, in pixels, before the page is turned."""

    x: float
    y: float
    text: str


@lru_cache(maxsize=256)
def load_font(name: str, em: int) -> ImageFont.FreeTypeFont:
    """Load a font from the files of Pillow or matplotlib. Nothing is downloaded and no system font is used.

    Args:
        name: One of `TRAINING_FONTS` or `HELD_OUT_FONTS`.
        em: Size in pixels.
    """
    if name == PILLOW_FONT:
        font = ImageFont.load_default(em)
        assert isinstance(font, ImageFont.FreeTypeFont)
        return font
    from matplotlib import get_data_path

    return ImageFont.truetype(
        Path(get_data_path(), "fonts", "ttf", f"{name}.ttf"), em, layout_engine=ImageFont.Layout.BASIC
    )


@lru_cache(maxsize=64)
def em_for_capitals(name: str, height: float) -> int:
    """Return the font size in pixels at which a capital H is nearest to `height` pixels tall; at least 6."""
    _, top, _, bottom = load_font(name, 100).getbbox("H")
    return max(6, round(100 * height / (bottom - top)))


def render_document(
    seed: int | str,
    *,
    print_size: PrintSize,
    look: Look = TRAINING_LOOK,
    fields: Callable[[random.Random], tuple[Field, ...]] = draw_page,
    size: tuple[int, int] = CARD,
) -> Document:
    """Render the page of a seed. The same arguments give the same pixels.

    Args:
        seed: Any int or string. Seeds that begin with different words never collide.
        print_size: "large" or "small".
        look: The ranges of fonts, tilt, noise and margins.
        fields: Draws the fields. It is called again while its fields do not fit on the page.
        size: Width and height of the page in pixels.

    Returns:
        The page with its fields and glyphs.

    Raises:
        ValueError: A hundred draws of `fields` did not fit.
    """
    rng = random.Random(f"{seed}/{print_size}")
    font_name = rng.choice(look.fonts)
    layout = rng.choice(LAYOUTS)
    for _ in range(100):
        drawn = fields(rng)
        if placed := _lay_out(rng, drawn, font_name, layout, print_size, look, size):
            break
    else:
        raise ValueError(f"{len(drawn)} fields in {print_size} print do not fit on {size[0]}×{size[1]} pixels")
    font, lines = placed
    image, glyphs, tilt = _print_page(rng, font, lines, layout, look, size)
    return Document(image, drawn, print_size, font_name, layout, tilt, glyphs)


def render_strings(
    seed: int | str, *, print_size: PrintSize, look: Look = TRAINING_LOOK
) -> tuple[Image.Image, tuple[Glyph, ...]]:
    """Render a page full of random characters, for the first phase of pretraining.

    Args:
        seed: Any int or string.
        print_size: "large" or "small".
        look: The ranges of fonts, tilt and noise. Its margins do not apply.

    Returns:
        The page as an RGB image, and its glyphs.
    """
    rng = random.Random(f"strings/{seed}/{print_size}")
    font_name = rng.choice(look.fonts)
    em = em_for_capitals(font_name, round(rng.uniform(*CAPITAL_HEIGHT[print_size]), 1))
    font = load_font(font_name, em)
    pitch = em * rng.uniform(1.15, 1.5)
    lines: list[_Text] = []
    y = em * rng.uniform(0.8, 1.4)
    while y < CARD[1] - 3:
        x = rng.uniform(2, 10)
        text, end = "", x
        while end < CARD[0] - 1.5 * em:
            text += rng.choice(PRINTED) if rng.random() < 0.88 else " "
            end += _advance(font, text[-1])
        lines.append(_Text(round(x), round(y), text))
        y += pitch
    image, glyphs, _ = _print_page(rng, font, lines, "card", look, CARD)
    return image, glyphs


def _print_page(
    rng: random.Random,
    font: ImageFont.FreeTypeFont,
    lines: Sequence[_Text],
    layout: str,
    look: Look,
    size: tuple[int, int],
) -> tuple[Image.Image, tuple[Glyph, ...], float]:
    """Draw the texts as a mask of ink, turn the mask, apply it to paper, and compress half of the pages as JPEG.

    Returns:
        The RGB image, its glyphs, and its tilt in degrees.
    """
    tilt = rng.uniform(-look.tilt, look.tilt)
    tilt = math.copysign(look.least_tilt + abs(tilt) * (1 - look.least_tilt / look.tilt), tilt)
    paper, ink = colours(rng, look)
    plate = Image.new("L", size, 0)  # coverage by ink, 0 to 255
    draw = ImageDraw.Draw(plate)
    _decorate(rng, draw, font, lines, layout)
    glyphs: list[Glyph] = []
    for line in lines:
        draw.text((line.x, line.y), line.text, font=font, fill=255, anchor="ls")
        glyphs.extend(glyphs_of(font, *line))
    plate = plate.rotate(tilt, Image.Resampling.BICUBIC)
    page = scanned(rng, plate, paper, ink, look)
    return page, tuple(turned(glyphs, tilt, size)), tilt


def _lay_out(
    rng: random.Random,
    fields: Sequence[Field],
    font_name: str,
    layout: str,
    print_size: PrintSize,
    look: Look,
    size: tuple[int, int],
) -> tuple[ImageFont.FreeTypeFont, list[_Text]] | None:
    """Choose the font size, the line pitch and the offset of the block of fields.

    Returns:
        The font, and for each field its label and then its value. None if the fields do not fit even at the smallest
        size of this print.
    """
    width, height = size
    lowest, highest = CAPITAL_HEIGHT[print_size]
    across, down = margins(look, size)
    edge_across, edge_down = look.edge or (None, None)
    capitals = rng.uniform(lowest, highest)
    for wanted in (capitals, lowest):
        em = em_for_capitals(font_name, round(wanted, 1))
        font = load_font(font_name, em)
        labels = [f.label + (":" if layout == "card" and f.label else "") for f in fields]
        label_widths = [font.getlength(text) for text in labels]
        value_widths = [font.getlength(f.value) for f in fields]
        gap = font.getlength("n") * (1.0 if layout == "card" else rng.uniform(1.0, 2.5))
        if layout == "card":
            needed = max(a + gap + b for a, b in zip(label_widths, value_widths, strict=True))
        else:
            needed = max(label_widths) + gap + max(value_widths)
        room, gaps = height - 2 * down - em, len(fields) - 1
        pitch_min = em * 1.3
        if needed <= width - 2 * across and pitch_min * gaps <= room:
            break
    else:
        return None
    pitch = rng.uniform(pitch_min, max(pitch_min, min(room / max(1, gaps), em * 2.0)))
    left = _near_an_end(rng.uniform(across, width - across - needed), across, width - across - needed, edge_across)
    block = pitch * (len(fields) - 1)
    ascent = em * 0.8
    top, bottom = down + ascent, height - down - block - em * 0.2
    first = _near_an_end(rng.uniform(top, bottom), top, bottom, edge_down)
    spread = rng.uniform(0, width - across - left - needed) if layout == "receipt" else 0.0
    lines: list[_Text] = []
    for row, f in enumerate(fields):
        y = round(first + row * pitch)
        x_label = round(left)
        if layout == "card":
            x_value = round(left + label_widths[row] + gap)
        elif layout == "form":
            x_value = round(left + max(label_widths) + gap)
        else:
            x_value = round(left + needed + spread - value_widths[row])
        lines.append(_Text(x_label, y, labels[row]))
        lines.append(_Text(x_value, y, f.value))
    return font, lines


def margins(look: Look, size: tuple[int, int] = CARD) -> tuple[int, int]:
    """Return the least distance of print from the edges before the page is turned.

    The greatest tilt moves the end of a line by half the page's width times the slope, so lines need that much more
    room.

    Args:
        look: Its `margin` and `tilt` count.
        size: Width and height of the page in pixels.

    Returns:
        The horizontal and the vertical distance in pixels.
    """
    slope = np.tan(np.radians(look.tilt))
    return look.margin[0] + round(slope * size[1] / 2), look.margin[1] + round(slope * size[0] / 2)


def _near_an_end(place: float, low: float, high: float, within: float | None) -> float:
    """Move `place`, between `low` and `high`, to at most `within` pixels from the nearer end. None: do not move it."""
    if within is None or within >= (high - low) / 2:
        return place
    share = (place - low) / (high - low)
    return low + 2 * share * within if share < 0.5 else high - 2 * (1 - share) * within


def _decorate(
    rng: random.Random,
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont,
    lines: Sequence[_Text],
    layout: str,
) -> None:
    """Draw rules, leaders or a frame, with much less ink than the print."""
    faint = 60
    if layout == "form" and rng.random() < 0.5:
        for x, y, text in lines[1::2]:
            draw.line((x - 2, y + 4, x + font.getlength(text) + 4, y + 4), fill=faint)
    if layout == "receipt" and rng.random() < 0.5:
        for (x, y, text), (right, _, _) in zip(lines[::2], lines[1::2], strict=True):
            for dot in range(round(x + font.getlength(text)) + 6, round(right) - 5, 6):
                draw.point((dot, y), fill=faint)
    if rng.random() < 0.3:
        draw.rectangle((1, 1, draw.im.size[0] - 2, draw.im.size[1] - 2), outline=faint)


@lru_cache(maxsize=8192)
def _advance(font: ImageFont.FreeTypeFont, char: str) -> float:
    return font.getlength(char)


def glyphs_of(font: ImageFont.FreeTypeFont, x: float, y: float, text: str) -> list[Glyph]:
    """The glyphs of a text before the page is turned.

    Args:
        font: The font.
        x: The left end of the text in pixels.
        y: Its baseline in pixels.
        text: The text. Spaces are no glyphs.
    """
    glyphs: list[Glyph] = []
    for char in text:
        advance = _advance(font, char)
        if char != " ":
            glyphs.append(Glyph(char, x + advance / 2, y - 0.36 * font.size))
        x += advance
    return glyphs


def turned(glyphs: Sequence[Glyph], tilt: float, size: tuple[int, int]) -> list[Glyph]:
    """The glyphs after the page is turned.

    Args:
        glyphs: The glyphs before.
        tilt: Degrees counter-clockwise about the centre of the page.
        size: Width and height of the page in pixels.
    """
    cos, sin = np.cos(np.radians(tilt)), np.sin(np.radians(tilt))
    cx, cy = size[0] / 2, size[1] / 2
    return [
        Glyph(g.char, float(cx + cos * (g.x - cx) + sin * (g.y - cy)), float(cy - sin * (g.x - cx) + cos * (g.y - cy)))
        for g in glyphs
    ]


def colours(rng: random.Random, look: Look) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Draw the RGB colours of the paper and of the ink."""
    shade = rng.randint(*look.paper)
    paper = tuple(shade - rng.randint(0, 8) for _ in range(3))
    shade = rng.randint(*look.ink)
    return paper, tuple(shade + rng.randint(0, 24) for _ in range(3))


def scanned(
    rng: random.Random, plate: Image.Image, paper: tuple[int, ...], ink: tuple[int, ...], look: Look
) -> Image.Image:
    """Apply ink to paper, and compress half of the pages as JPEG.

    Args:
        rng: Draws noise and compression.
        plate: Coverage by ink, mode L.
        paper: RGB colour of the paper.
        ink: RGB colour of the ink.
        look: Its `noise` and `jpeg` count.

    Returns:
        An RGB image of the plate's size.
    """
    page = _printed(rng, plate, paper, ink, look)
    if rng.random() < 0.5:
        buffer = io.BytesIO()
        page.save(buffer, "JPEG", quality=rng.randint(*look.jpeg))
        page = Image.open(buffer).convert("RGB")
    return page


def _printed(
    rng: random.Random, plate: Image.Image, paper: tuple[int, ...], ink: tuple[int, ...], look: Look
) -> Image.Image:
    """Apply ink to paper and add grey noise to both.

    Noise and coverage are (H, W) float32 arrays; the pixels are (H, W, 3) uint8.

    Args:
        rng: Draws the noise.
        plate: Coverage by ink, mode L.
        paper: RGB colour of the paper.
        ink: RGB colour of the ink.
        look: Its `noise` counts.

    Returns:
        An RGB image of the plate's size.
    """
    sigma = rng.uniform(*look.noise)
    grain = np.random.Generator(np.random.SFC64(rng.getrandbits(64))).standard_normal(plate.size[::-1], np.float32)
    cover = np.asarray(plate, np.float32) / 255
    pixels = np.empty((*plate.size[::-1], 3), np.uint8)
    for channel, (light, dark) in enumerate(zip(paper, ink, strict=True)):
        pixels[..., channel] = np.clip(light + (dark - light) * cover + sigma * grain + 0.5, 0, 255)
    return Image.fromarray(pixels)
