"""Expands collapsed prompts (one placeholder per image) to what the decoder sees (one placeholder per visual token)."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from vtagent.errors import ModelError
from vtagent.models.engine import EngineImage
from vtagent.visual_tokens import VisionSpec


def expand(ids: Sequence[int], images: Sequence[EngineImage], vision: VisionSpec, image_token_id: int) -> list[int]:
    """Repeat each placeholder once per visual token of its image.

    Args:
        ids: The collapsed prompt.
        images: One image per placeholder, in their order.
        vision: The image sizes of the model.
        image_token_id: The placeholder.

    Raises:
        ModelError: The numbers of placeholders and images differ, two placeholders are adjacent, or the processor would
            resize an image.
    """
    if ids.count(image_token_id) != len(images):
        raise ModelError(f"the prompt has {ids.count(image_token_id)} image placeholders for {len(images)} images")
    out: list[int] = []
    rest = iter(images)
    for token in ids:
        if token != image_token_id:
            out.append(token)
            continue
        if out and out[-1] == image_token_id:
            raise ModelError(
                "two image placeholders follow one another; put the vision start and end tokens between them"
            )
        out.extend([token] * image_tokens(next(rest), vision))
    return out


def image_tokens(image: EngineImage, vision: VisionSpec) -> int:
    """The number of visual tokens of an image.

    Raises:
        ModelError: The processor would resize the image.
    """
    width, height = image.pixels.size
    if vision.snap(width, height) != (width, height):
        raise ModelError(
            f"an image of {width}x{height} pixels would be resized by the model, to {vision.snap(width, height)}; "
            "render it at that size"
        )
    return vision.tokens(width, height)


def identity(image: EngineImage) -> str:
    """The name under which an image's features are cached. Equal names mean equal pixels of one size."""
    return f"{image.key}@{image.pixels.width}x{image.pixels.height}"


def cache_keys(expanded: Sequence[int], images: Sequence[EngineImage], image_token_id: int) -> tuple[int, ...]:
    """The expanded prompt for the prefix cache: each image's placeholders become one negative number.

    The number depends on the image alone, so that prompts with different images share no KV from there on.

    Args:
        expanded: The expanded prompt.
        images: Its images, in the order of their placeholders.
        image_token_id: The placeholder.
    """
    out: list[int] = []
    rest = iter(images)
    number, inside = 0, False
    for token in expanded:
        if token == image_token_id and not inside:
            number = -1 - int.from_bytes(sha256(identity(next(rest)).encode()).digest()[:7])
        inside = token == image_token_id
        out.append(number if inside else token)
    return tuple(out)


def image_spans(expanded: Sequence[int], image_token_id: int) -> list[tuple[int, int]]:
    """Start and end (exclusive) of each image in an expanded prompt."""
    places = [place for place, token in enumerate(expanded) if token == image_token_id]
    starts = [place for place in places if place == 0 or expanded[place - 1] != image_token_id]
    ends = [place + 1 for place in places if place + 1 == len(expanded) or expanded[place + 1] != image_token_id]
    return list(zip(starts, ends, strict=True))
