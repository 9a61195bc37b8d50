"""Reduces an encoded image to what decides its pixels, so that the decoder's cost does not depend on anything else.

Each module reads the structure of one format in bounded time: it counts parts, checks limits and leaves out metadata.
No pixel is decoded here.
"""

from __future__ import annotations

from collections.abc import Callable

from vtagent.errors import ImageTooLarge, UnreadableImage
from vtagent.formats import bmp, gif, jpeg, png, tiff, webp
from vtagent.formats.stripped import Stripped
from vtagent.limits import ImageLimits

__all__ = ["IMAGE_SUFFIXES", "Stripped", "check_size", "strip"]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
"""Endings, in lower case, of files that are taken for images before they are opened."""

_READERS: dict[str, Callable[[bytes, ImageLimits], Stripped]] = {
    "JPEG": jpeg.strip,
    "PNG": png.strip,
    "GIF": gif.strip,
    "WEBP": webp.strip,
    "BMP": bmp.strip,
    "TIFF": tiff.strip,
}
_MAGIC = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "BMP": (b"BM",),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
}


def strip(data: bytes, limits: ImageLimits, directory: int | None = None) -> Stripped:
    """Returns a file without its metadata, in the same format and with the same pixels.

    Args:
        data: The encoded file.
        limits: Limits that its structure must meet.
        directory: Where the directory of a TIFF's page begins, as `tiff.page_starts` gives it; None if the file must be
            one image.

    Raises:
        UnreadableImage: It is in none of `limits.formats`, incomplete, animated, or coded in a way that is not read.
        ImageTooLarge: It has more parts, pixels or decoded bytes, or costs more to decode, than `limits` allow.
    """
    format = _format(data)
    if format is None or format not in limits.formats or (directory is not None and format != "TIFF"):
        raise UnreadableImage(f"not a complete image ({_guess(data)}): expected {', '.join(limits.formats)}")
    try:
        stripped = _READERS[format](data, limits) if directory is None else tiff.strip(data, limits, directory)
    except (UnreadableImage, ImageTooLarge):
        raise
    except Exception as error:  # an offset or a length that points outside the file
        line = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImage(f"the {format}'s header cannot be read ({line}): is it complete?") from error
    check_size(stripped.width, stripped.height, limits)
    if stripped.decoded_bytes > limits.max_decoded_bytes:
        raise ImageTooLarge(
            f"the {format} decodes to {stripped.decoded_bytes} bytes; at most {limits.max_decoded_bytes} are allowed: "
            "save it smaller or with 8 bits a sample"
        )
    return stripped


def check_size(width: int, height: int, limits: ImageLimits) -> None:
    """Checks the size of an image, in pixels.

    Args:
        width: Width of the image.
        height: Height of the image.
        limits: Limits that the size must meet.

    Raises:
        UnreadableImage: It has no pixels.
        ImageTooLarge: It has too many, or one side is too long for the other.
    """
    if min(width, height) < 1:
        raise UnreadableImage(f"the image has no pixels: {width}x{height}")
    if width * height > limits.max_pixels:
        raise ImageTooLarge(f"the image is {width}x{height} pixels; at most {limits.max_pixels} in all are allowed")
    if max(width, height) > limits.max_aspect * min(width, height):
        raise ImageTooLarge(f"the image is {width}x{height}: one side may be at most {limits.max_aspect}x the other")


def _format(data: bytes) -> str | None:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return next((name for name, starts in _MAGIC.items() if data.startswith(starts)), None)


def _guess(data: bytes) -> str:
    """Says what unidentified bytes seem to be, and how to convert them."""
    if data.startswith(b"%PDF"):
        return "this is a PDF: put it into the store with store.documents.put, and show its pages"
    if data[4:8] == b"ftyp":
        return "this looks like HEIC, AVIF or video: convert it first"
    return f"it starts with {data[:8]!r}"
