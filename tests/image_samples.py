"""Encoded sample images for the tests, small and made on the spot."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encode(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def solid(size: tuple[int, int] = (64, 48), color: Any = RED, mode: str = "RGB") -> Image.Image:
    return Image.new(mode, size, color)


def quarters(size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Red top left, green top right, blue bottom left, white bottom right: any turn or flip shows."""
    width, height = size
    image = Image.new("RGB", size, WHITE)
    image.paste(RED, (0, 0, width // 2, height // 2))
    image.paste(GREEN, (width // 2, 0, width, height // 2))
    image.paste(BLUE, (0, height // 2, width // 2, height))
    return image


def scene(size: tuple[int, int]) -> Image.Image:
    """A smooth colourful image with edges, cheap to make at any size: it compresses like a photograph."""
    width, height = size
    across = Image.linear_gradient("L").transpose(Image.Transpose.ROTATE_90).resize(size)
    down = Image.linear_gradient("L").resize(size)
    rings = Image.radial_gradient("L").resize((max(1, width // 8), max(1, height // 8)))
    tiled = Image.new("L", size)
    for x in range(0, width, rings.width):
        for y in range(0, height, rings.height):
            tiled.paste(rings, (x, y))
    return Image.merge("RGB", (across, tiled, down))
