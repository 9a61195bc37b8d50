"""What the formats share about images and tools: strict base64, decoding, and the vendors' rules of billing."""

from __future__ import annotations

import base64
import binascii
import io
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from PIL import Image

TILES = {"gpt-4o-mini": (2833, 5667), "gpt-5": (70, 140), "o1": (75, 150), "o3": (75, 150)}
"""Base tokens, and tokens of a 512-px tile; other models: 85, 170. Source: OpenAI, "Images and vision"."""

PATCHES = {"o4-mini": 1.72, "gpt-4.1-mini": 1.62, "gpt-4.1-nano": 2.46, "gpt-5-mini": 1.62, "gpt-5-nano": 2.46}
PATCHES |= {f"gpt-5.{minor}": 1.2 for minor in range(2, 10)}
"""Models that bill patches of 32 px, and their factor. Source: OpenAI, "Images and vision"; from 5.2 on: measured."""


class Decoded(NamedTuple):
    """An image's media type, by its bytes, and its size in pixels."""

    media_type: str
    size: tuple[int, int]


def strict_base64(text: str) -> bytes:
    """The bytes.

    Raises:
        ValueError: The text is not padded base64 in the standard alphabet, or it is empty.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error
    if not data:
        raise ValueError("no bytes")
    return data


def decoded(data: bytes) -> Decoded:
    """The image, decoded to its last pixel.

    Raises:
        ValueError: The bytes are no image that can be decoded.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return Decoded(Image.MIME.get(image.format or "", "application/octet-stream"), image.size)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"not an image: {error}") from error


def openai_tokens(model: str, size: tuple[int, int], detail: str | None) -> int:
    """What OpenAI bills for an image: tiles or patches. Source: OpenAI, "Images and vision", "Calculating costs".

    Args:
        model: The model's name.
        size: Width and height in pixels.
        detail: "low", "high", "original", "auto" or None; "auto" and None bill as "high".

    Returns:
        Tokens.
    """
    factor: float | None = _longest_prefix(model, PATCHES)
    if factor is not None:
        most = 10_000 if detail == "original" else 2_500 if factor == 1.2 else 1_536
        return math.ceil(_patches(_fitted(size, 512) if detail == "low" else size, most) * factor)
    base, tile = _longest_prefix(model, TILES) or (85, 170)
    width, height = _fitted(size, 2048)
    scale = min(1.0, 768 / min(width, height))
    tiles = 0 if detail == "low" else math.ceil(width * scale / 512) * math.ceil(height * scale / 512)
    return int(base + tile * tiles)


def anthropic_tokens(model: str, size: tuple[int, int]) -> int:
    """What Anthropic bills for an image: ⌈w/28⌉ · ⌈h/28⌉ after its own shrinking. Measured by users.

    Args:
        model: The model's name; from 4.7 on, the long edge may have 2,576 px instead of 1,568.
        size: Width and height in pixels.

    Returns:
        Tokens.
    """
    edge, most = (2576, 4784) if claude_version(model) >= (4, 7) else (1568, 1568)
    width, height = _fitted(size, edge)
    while (tokens := math.ceil(width / 28) * math.ceil(height / 28)) > most:
        width, height = width * 0.995, height * 0.995
    return tokens


def claude_version(model: str) -> tuple[int, int]:
    """Major and minor version in a Claude model's name; (0, 0) if it has none."""
    found = re.match(r"claude-(?:[a-z]+-)?(\d{1,2})(?:-(\d{1,2})(?!\d))?", model)
    return (int(found[1]), int(found[2] or 0)) if found else (0, 0)


GEMINI_3 = {"LOW": 280, "MEDIUM": 560, "HIGH": 1120, "ULTRA_HIGH": 2240}
"""Tokens of an image by media resolution. Source: Google, "Media resolution"."""


def gemini_tokens(model_major: int, size: tuple[int, int], resolution: str | None) -> int:
    """What Google bills for an image. Source: Google, "Media resolution" and "Understand and count tokens".

    Args:
        model_major: The model's generation.
        size: Width and height in pixels; from generation 3 on they do not matter.
        resolution: The media resolution without its prefix, such as "LOW"; None: the default, "HIGH".

    Returns:
        Tokens.
    """
    if model_major >= 3:
        return GEMINI_3[resolution or "HIGH"]
    width, height = size
    if max(width, height) <= 384:
        return 258
    unit = min(768, max(256, int(min(width, height) / 1.5)))
    return 258 * math.ceil(width / unit) * math.ceil(height / unit)


def qwen_tokens(size: tuple[int, int]) -> int:
    """What a local Qwen2.5-VL spends on an image: squares of 28 px."""
    return math.ceil(size[0] / 28) * math.ceil(size[1] / 28)


def schema_faults(schema: Any, where: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """The faults of a tool's JSON schema for which OpenAI refuses it, each with its place.

    Args:
        schema: The schema, or a part of it.
        where: The place of this part.

    Yields:
        The place, and the fault in OpenAI's words.
    """
    if not isinstance(schema, dict):
        yield where, f"{schema!r} is not of type 'object', 'boolean'"
        return
    if schema.get("type") == "array" and "items" not in schema:
        yield where, "array schema missing items"
    properties = schema.get("properties", {})
    if not isinstance(properties, dict):
        yield (*where, "properties"), f"{properties!r} is not of type 'object'"
        return
    for name, part in properties.items():
        yield from schema_faults(part, (*where, "properties", name))
    if "items" in schema:
        yield from schema_faults(schema["items"], (*where, "items"))
    for key in ("anyOf", "allOf", "oneOf"):
        for place, part in enumerate(schema.get(key, ())):
            yield from schema_faults(part, (*where, key, str(place)))


def _longest_prefix(model: str, table: dict[str, Any]) -> Any:
    names = [name for name in table if model == name or model.startswith((f"{name}-", f"{name}."))]
    return table[max(names, key=len)] if names else None


def _fitted(size: tuple[int, int], edge: int) -> tuple[float, float]:
    """The size with its long edge at most `edge` pixels."""
    scale = min(1.0, edge / max(size))
    return size[0] * scale, size[1] * scale


def _patches(size: tuple[float, float], most: int) -> int:
    """Patches of 32 px; a larger image is first shrunk, so that a whole number of patches fits one side."""
    width, height = size
    if math.ceil(width / 32) * math.ceil(height / 32) <= most:
        return math.ceil(width / 32) * math.ceil(height / 32)
    scale = math.sqrt(32 * 32 * most / (width * height))
    across, down = width * scale / 32, height * scale / 32
    scale *= min(math.floor(across) / across, math.floor(down) / down)
    return math.ceil(width * scale / 32 - 1e-9) * math.ceil(height * scale / 32 - 1e-9)
