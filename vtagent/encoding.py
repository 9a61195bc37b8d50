"""Encodes pixels for requests: lossless as PNG, or, for hosted models, as PNG or JPEG, whichever is smaller."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image

from vtagent.errors import ImageTooLarge
from vtagent.formats import jpeg, strip
from vtagent.limits import ImageLimits

__all__ = ["LOSSLESS", "LOSSY", "EncodedImage", "Encoding", "encode", "plain_original"]

_LOWER_QUALITIES = (80, 70, 60, 50, 40, 30, 20, 10)
_LEAST_QUALITY = 75
"""JPEG quality below which the wish to be no larger than the original file does not go."""

_SAMPLE_ROWS = 48
"""Rows of each of three samples, by which PNG and JPEG are compared."""


@dataclass(frozen=True)
class Encoding:
    """How pixels become bytes.

    Attributes:
        lossy: Whether a JPEG is sent where it is smaller than a PNG. Without it the receiver gets the exact pixels,
            which token-exact engines need.
        quality: JPEG quality, 1 to 95. At 90, with colours at full resolution, the bundled policy reads documents as
            well as from the exact pixels (benchmarks/results/jpeg_reading.md).
        max_bytes: Most bytes that the receiver takes; None for any number. The quality is lowered where needed.
    """

    lossy: bool = False
    quality: int = 90
    max_bytes: int | None = None


LOSSLESS = Encoding()
LOSSY = Encoding(lossy=True)


@dataclass(frozen=True)
class EncodedImage:
    """An image file to send.

    Attributes:
        mime_type: "image/png" or "image/jpeg".
        data: The file.
    """

    mime_type: str
    data: bytes

    @property
    def data_url(self) -> str:
        """The file as a `data:<mime type>;base64,…` URL."""
        return f"data:{self.mime_type};base64," + base64.b64encode(self.data).decode("ascii")


def encode(image: Image.Image, encoding: Encoding = LOSSLESS, *, original: int | None = None) -> EncodedImage:
    """Encodes RGB pixels.

    Args:
        image: The pixels.
        encoding: How to encode them.
        original: Size, in bytes, of a file that shows at least as much. To make the result no larger, the quality is
            lowered, to 75 at the least.

    Raises:
        ImageTooLarge: The result has more than `encoding.max_bytes` bytes, at the lowest quality if it may be lossy.
    """
    if not encoding.lossy:
        png = _png(image, level=1)  # lossless at any level; the lowest saves most of the time
        if encoding.max_bytes is not None and len(png) > encoding.max_bytes:
            raise _too_large(len(png), encoding.max_bytes)
        return EncodedImage("image/png", png)
    smallest = EncodedImage("image/jpeg", _jpeg(image, encoding.quality))
    if _png_is_smaller(image, encoding.quality):
        png = _png(image, level=6)
        if len(png) <= len(smallest.data):
            smallest = EncodedImage("image/png", png)
    for quality in _LOWER_QUALITIES:
        too_large = encoding.max_bytes is not None and len(smallest.data) > encoding.max_bytes
        beyond_original = original is not None and len(smallest.data) > original
        if quality >= encoding.quality or not (too_large or beyond_original):
            continue
        lower = EncodedImage("image/jpeg", _jpeg(image, quality if too_large else max(quality, _LEAST_QUALITY)))
        smallest = min(smallest, lower, key=lambda encoded: len(encoded.data))
    if encoding.max_bytes is not None and len(smallest.data) > encoding.max_bytes:
        raise _too_large(len(smallest.data), encoding.max_bytes)
    return smallest


def plain_original(data: bytes, encoding: Encoding, *, limits: ImageLimits) -> EncodedImage | None:
    """Returns an original file, without its metadata, if every reader shows it as `decode` does; otherwise None.

    That holds for an upright RGB or grey image of 8 bits without transparency: a PNG, or, if the encoding may be lossy,
    a JPEG. (Decoders of JPEG differ by one grey level here and there.)

    Args:
        data: The encoded original.
        encoding: How pixels are to be encoded.
        limits: Limits that the original meets.
    """
    stripped = strip(data, limits)
    if stripped.orientation != 1 or stripped.bits > 8:
        return None
    file = stripped.data
    if stripped.format == "JPEG" and encoding.lossy:
        file = file if stripped.scanned else jpeg.without_trailer(file)
    elif stripped.format != "PNG":
        return None
    with Image.open(io.BytesIO(file), formats=(stripped.format,)) as image:
        if image.mode not in ("1", "L", "P", "RGB") or image.has_transparency_data:
            return None
        mime_type = Image.MIME[stripped.format]
    return EncodedImage(mime_type, file)


def _png_is_smaller(image: Image.Image, quality: int) -> bool:
    """Returns whether a PNG may be smaller than a JPEG, judged by three strips: line art and screenshots often are."""
    height = image.height
    if height <= 4 * _SAMPLE_ROWS:
        return True
    sample = Image.new("RGB", (image.width, 3 * _SAMPLE_ROWS))
    for index in range(3):
        top = (2 * index + 1) * (height - _SAMPLE_ROWS) // 6
        sample.paste(image.crop((0, top, image.width, top + _SAMPLE_ROWS)), (0, index * _SAMPLE_ROWS))
    return len(_png(sample, level=6)) < 1.2 * len(_jpeg(sample, quality))


def _png(image: Image.Image, *, level: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=level)
    return buffer.getvalue()


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=0)  # halved colours blur coloured print
    return buffer.getvalue()


def _too_large(size: int, most: int) -> ImageTooLarge:
    return ImageTooLarge(
        f"the view takes {size} bytes; at most {most} are allowed: show less of it, or at a lower scale"
    )
