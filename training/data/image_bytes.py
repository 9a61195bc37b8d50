"""Reads an image in any form that data sets store it in, and returns the bytes of an image file."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from vtagent.errors import ImageNotFound, UnreadableImage
from vtagent.images import ImageLimits, decode

LIMITS = ImageLimits()


def images_bytes(value: Any, folder: Path) -> list[bytes]:
    """Return the bytes of all images of a row.

    Args:
        value: What `image_bytes` takes, or a list of any number of these. An empty list says that there is no image.
        folder: Where relative paths start.

    Raises:
        ImageError: As `image_bytes`.
    """
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray):
        return [image_bytes(each, folder) for each in value]
    return [image_bytes(value, folder)]


def image_bytes(value: Any, folder: Path) -> bytes:
    """Return the bytes of an image file. They are not decoded here.

    Args:
        value: Bytes; a path, relative to `folder` or absolute; a base64 data URL; a Pillow image; {"bytes": …, "path":
            …} as `datasets` stores it.
        folder: Where relative paths start.

    Returns:
        The encoded image. A Pillow image becomes a PNG.

    Raises:
        ImageError: The value has none of these forms, or its file does not exist.
    """
    match value:
        case bytes() | bytearray():
            return bytes(value)
        case str() if value[:5].lower() == "data:":
            return _from_data_url(value)
        case str() if "://" in value[:10]:
            raise ImageNotFound(f"{value[:80]!r} is remote; download it first")
        case str() | Path() if str(value):
            try:
                return (folder / value).read_bytes()
            except (OSError, ValueError) as error:
                raise ImageNotFound(f"{str(value)[:200]!r}: {getattr(error, 'strerror', None) or error}") from error
        case Image.Image():
            file = io.BytesIO()
            value.convert("RGB").save(file, "PNG", compress_level=1)
            return file.getvalue()
        case Mapping() if value.get("bytes"):
            return bytes(value["bytes"])
        case Mapping() if value.get("path"):
            return image_bytes(value["path"], folder)
    raise UnreadableImage("no image" if not value else f"{type(value).__name__} is no form of an image")


def resized(data: bytes, size: tuple[int, int]) -> bytes:
    """Resize an encoded image.

    Args:
        data: The encoded image.
        size: Width and height of the result in pixels.

    Returns:
        The bytes of a PNG.

    Raises:
        ImageError: The image cannot be decoded.
    """
    file = io.BytesIO()
    decode(data, limits=LIMITS).resize(size, Image.Resampling.LANCZOS).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _from_data_url(text: str) -> bytes:
    try:
        return base64.b64decode(text.partition(",")[2], validate=True)
    except (binascii.Error, ValueError) as error:
        raise UnreadableImage(f"the data URL is not base64 ({error})") from None
