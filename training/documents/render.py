"""Render one small document, a card, form or receipt, from a seed: its pixels, its fields and where every glyph stands.

The domain of the bundled policy is exactly what this module draws; `vtagent/policies/*/README.md` states it for
users. A page holds two to four fields of one print size. Print is measured by the height of a capital in pixels, since
fonts of equal nominal size differ by a third in what they print: large print is chosen so that at half the side length
it is as tall as small print in full, so a quarter of the pixels is enough for one and far too little for the other.
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vtagent.training.documents.values import PRINTED, Field, draw_page

PAGE = (224, 160)
"""Width and height of a page in pixels."""

PrintSize = Literal["large", "small"]

CAPITAL_HEIGHT: dict[PrintSize, tuple[float, float]] = {"large": (14.0, 16.0), "small": (7.0, 8.0)}
"""Height of a capital letter in pixels, lowest and highest."""

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
"""Never seen in training; used only by the wide-domain check."""

LAYOUTS = ("card", "form", "receipt")


@dataclass(frozen=True)
class Look:
    """The ranges a page's appearance is drawn from; each pair is (lowest, highest)."""

    fonts: tuple[str, ...] = TRAINING_FONTS
    tilt: float = 2.0
    """Largest rotation in degrees, either way."""
    least_tilt: float = 0.0
    """Smallest."""
    noise: tuple[float, float] = (0.0, 5.0)
    """Standard deviation of the paper's noise in grey levels."""
    jpeg: tuple[int, int] = (55, 95)
    """JPEG quality; half of the pages are never compressed."""
    margin: tuple[int, int] = (6, 6)
    """Least distance of print from the page's edge in pixels, across and down."""
    edge: tuple[int, int] | None = None
    """How much further from it print may stand at most, across and down; absent: anywhere on the page."""
    paper: tuple[int, int] = (232, 255)
    ink: tuple[int, int] = (0, 60)


TRAINING_LOOK = Look()
WIDE_LOOK = Look(
    fonts=HELD_OUT_FONTS, tilt=2.5, least_tilt=2.0, noise=(5.0, 8.0), jpeg=(40, 55), margin=(2, 3), edge=(4, 2)
)
"""Fonts, tilt, noise, compression and offsets that training never shows: print stands nearer to two edges."""


@dataclass(frozen=True)
class Glyph:
    """One printed character and the centre of its box in page pixels, after tilt."""

    char: str
    x: float
    y: float


@dataclass(frozen=True)
class Document:
    """A rendered page. `image` is RGB ."""

    image: Image.Image
    fields: tuple[Field, ...]
    print_size: PrintSize
    font: str
    layout: str
    tilt: float
    glyphs: tuple[Glyph, ...] = field(repr=False)


@lru_cache(maxsize=256)
def load_font(name: str, em: int) -> ImageFont.FreeTypeFont:
    """The font at `em` pixels. Its file comes with Pillow or matplotlib: nothing is fetched, no system font is used."""
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
    """The em size in pixels whose capital H is nearest to `height` pixels tall."""
    _, top, _, bottom = load_font(name, 100).getbbox("H")
    return max(6, round(100 * height / (bottom - top)))


def render_document(
    seed: int | str,
    *,
    print_size: PrintSize,
    look: Look = TRAINING_LOOK,
    fields: Callable[[random.Random], tuple[Field, ...]] = draw_page,
    size: tuple[int, int] = PAGE,
) -> Document:
    """Draw the page that belongs to `seed`: same seed, same pixels.

    Args:
        seed: Any int or string; seeds that begin with different words never collide.
        print_size: "large" or "small".
        look: Where fonts, tilt, noise and margins come from.
        fields: Draws what is printed; asked again while that does not fit.
        size: Width and height in pixels.

    Raises:
        ValueError: A hundred draws of `fields` did not fit.
    """
    rng = random.Random(f"{seed}/{print_size}")
    font_name = rng.choice(look.fonts)
    layout = rng.choice(LAYOUTS)
    for _ in range(100):
        drawn = fields(rng)
        if placed := _place(rng, drawn, font_name, layout, print_size, look, size):
            break
    else:
        raise ValueError(f"{len(drawn)} fields in {print_size} print do not fit on {size[0]}×{size[1]} pixels")
    font, lines = placed
    image, glyphs, tilt = _print_page(rng, font, lines, layout, look, size)
    return Document(image, drawn, print_size, font_name, layout, tilt, glyphs)


def render_strings(
    seed: int | str, *, print_size: PrintSize, look: Look = TRAINING_LOOK
) -> tuple[Image.Image, tuple[Glyph, ...]]:
    """A page full of random characters: the densest lesson in what glyphs look like, for pretraining's first stage."""
    rng = random.Random(f"strings/{seed}/{print_size}")
    font_name = rng.choice(look.fonts)
    em = em_for_capitals(font_name, round(rng.uniform(*CAPITAL_HEIGHT[print_size]), 1))
    font = load_font(font_name, em)
    pitch = em * rng.uniform(1.15, 1.5)
    lines: list[tuple[float, float, str]] = []
    y = em * rng.uniform(0.8, 1.4)
    while y < PAGE[1] - 3:
        x = rng.uniform(2, 10)
        text, end = "", x
        while end < PAGE[0] - 1.5 * em:
            text += rng.choice(PRINTED) if rng.random() < 0.88 else " "
            end += _advance(font, text[-1])
        lines.append((round(x), round(y), text))
        y += pitch
    image, glyphs, _ = _print_page(rng, font, lines, "card", look, PAGE)
    return image, glyphs


def _print_page(
    rng: random.Random,
    font: ImageFont.FreeTypeFont,
    lines: list[tuple[float, float, str]],
    layout: str,
    look: Look,
    size: tuple[int, int],
) -> tuple[Image.Image, tuple[Glyph, ...], float]:
    """Ink the lines, turn the plate, press it on paper, age it."""
    tilt = rng.uniform(-look.tilt, look.tilt)
    tilt = math.copysign(look.least_tilt + abs(tilt) * (1 - look.least_tilt / look.tilt), tilt)
    shade = rng.randint(*look.paper)
    paper = tuple(shade - rng.randint(0, 8) for _ in range(3))
    shade = rng.randint(*look.ink)
    ink = tuple(shade + rng.randint(0, 24) for _ in range(3))
    plate = Image.new("L", size, 0)  # how much ink stands where, 0 to 255
    draw = ImageDraw.Draw(plate)
    _decorate(rng, draw, font, lines, layout)
    glyphs: list[Glyph] = []
    for x, y, text in lines:
        draw.text((x, y), text, font=font, fill=255, anchor="ls")
        glyphs.extend(_glyphs_of_line(font, x, y, text))
    plate = plate.rotate(tilt, Image.Resampling.BICUBIC)
    page = _age(rng, _printed(rng, plate, paper, ink, look), look)
    return page, tuple(_turned(glyphs, tilt, size)), tilt


def _place(
    rng: random.Random,
    fields: Sequence[Field],
    font_name: str,
    layout: str,
    print_size: PrintSize,
    look: Look,
    size: tuple[int, int],
) -> tuple[ImageFont.FreeTypeFont, list[tuple[float, float, str]]] | None:
    """Choose size, pitch and offset; None when the text does not fit even at the smallest size of this print."""
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
    lines: list[tuple[float, float, str]] = []
    for row, f in enumerate(fields):
        y = round(first + row * pitch)
        x_label = round(left)
        if layout == "card":
            x_value = round(left + label_widths[row] + gap)
        elif layout == "form":
            x_value = round(left + max(label_widths) + gap)
        else:
            x_value = round(left + needed + spread - value_widths[row])
        lines.append((x_label, y, labels[row]))
        lines.append((x_value, y, f.value))
    return font, lines


def margins(look: Look, size: tuple[int, int] = PAGE) -> tuple[int, int]:
    """Least distance of print from the edges of a page that is not turned yet, across and down.

    A turned line needs room at its ends: half the page's width times the slope, above and below.
    """
    slope = np.tan(np.radians(look.tilt))
    return look.margin[0] + round(slope * size[1] / 2), look.margin[1] + round(slope * size[0] / 2)


def _near_an_end(place: float, low: float, high: float, within: float | None) -> float:
    """A place between `low` and `high`, brought `within` so much of the end that it is nearer to."""
    if within is None or within >= (high - low) / 2:
        return place
    share = (place - low) / (high - low)
    return low + 2 * share * within if share < 0.5 else high - 2 * (1 - share) * within


def _decorate(
    rng: random.Random,
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont,
    lines: Sequence[tuple[float, float, str]],
    layout: str,
) -> None:
    """Rules, leaders or a frame, with much less ink than the print."""
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


def _glyphs_of_line(font: ImageFont.FreeTypeFont, x: float, y: float, text: str) -> list[Glyph]:
    glyphs: list[Glyph] = []
    for char in text:
        advance = _advance(font, char)
        if char != " ":
            glyphs.append(Glyph(char, x + advance / 2, y - 0.36 * font.size))
        x += advance
    return glyphs


def _turned(glyphs: Sequence[Glyph], tilt: float, size: tuple[int, int]) -> list[Glyph]:
    """Where glyphs land when the page turns by `tilt` degrees counter-clockwise about its middle."""
    cos, sin = np.cos(np.radians(tilt)), np.sin(np.radians(tilt))
    cx, cy = size[0] / 2, size[1] / 2
    return [
        Glyph(g.char, float(cx + cos * (g.x - cx) + sin * (g.y - cy)), float(cy - sin * (g.x - cx) + cos * (g.y - cy)))
        for g in glyphs
    ]


def _printed(
    rng: random.Random, plate: Image.Image, paper: tuple[int, ...], ink: tuple[int, ...], look: Look
) -> Image.Image:
    """Ink on paper, with grey noise over both."""
    sigma = rng.uniform(*look.noise)
    grain = np.random.Generator(np.random.SFC64(rng.getrandbits(64))).standard_normal(plate.size[::-1], np.float32)
    cover = np.asarray(plate, np.float32) / 255
    pixels = np.empty((*plate.size[::-1], 3), np.uint8)
    for channel, (light, dark) in enumerate(zip(paper, ink, strict=True)):
        pixels[..., channel] = np.clip(light + (dark - light) * cover + sigma * grain + 0.5, 0, 255)
    return Image.fromarray(pixels)


def _age(rng: random.Random, page: Image.Image, look: Look) -> Image.Image:
    """A JPEG round trip for half of the pages."""
    if rng.random() < 0.5:
        buffer = io.BytesIO()
        page.save(buffer, "JPEG", quality=rng.randint(*look.jpeg))
        page = Image.open(buffer).convert("RGB")
    return page
