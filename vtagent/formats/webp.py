"""WebP: keeps the bitstream of the image and its alpha."""

from __future__ import annotations

import struct

from vtagent.errors import UnreadableImage
from vtagent.formats import stripped
from vtagent.formats.exif import orientation
from vtagent.formats.stripped import Counter, Stripped
from vtagent.limits import ImageLimits

__all__ = ["strip"]

_ALPHA, _ANIMATED = 0x10, 0x02

_BUFFERS = 12
"""Bytes that Pillow's decoder holds for each pixel besides the result: two canvases and a copy."""


def strip(data: bytes, limits: ImageLimits) -> Stripped:
    """Returns a WebP without metadata; see `vtagent.formats.strip`.

    Args:
        data: The encoded file.
        limits: Limits that its structure must meet.

    Raises:
        UnreadableImage: It is incomplete or animated.
        ImageTooLarge: It has too many chunks.
    """
    end_of_file = 8 + struct.unpack_from("<I", data, 4)[0]
    if end_of_file > len(data):
        raise UnreadableImage("the WebP is shorter than it says: is it complete?")
    extended: bytes | None = None
    kept: dict[bytes, bytes] = {}
    exif = xmp = None
    frames = 0
    chunks = Counter("WebP", "chunks", limits)
    position = 12
    while position + 8 <= end_of_file:
        chunks.add()
        kind, length = struct.unpack_from("<4sI", data, position)
        start, end = position + 8, position + 8 + length
        if end > end_of_file:
            raise UnreadableImage("the WebP ends inside a chunk: is it complete?")
        position = end + length % 2
        if kind == b"VP8X":
            extended = extended or data[start:end]
        elif kind in (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"):
            frames += kind == b"ANMF"
            kept.setdefault(kind, data[start - 8 : end] + b"\0" * (length % 2))
        elif kind == b"EXIF":
            exif = data[start:end]
        elif kind == b"XMP ":
            xmp = data[start:end]
        if kind in (b"VP8 ", b"VP8L") and extended is None:
            break  # in the simple form nothing follows the image
    if frames > 1:
        raise stripped.refuse_frames("WEBP")
    width, height, chunk = _image(extended, kept)
    body = b"WEBP" + chunk
    file = b"RIFF" + struct.pack("<I", len(body)) + body
    return Stripped("WEBP", file, width, height, orientation(exif, xmp), buffers=_BUFFERS * width * height)


def _image(extended: bytes | None, kept: dict[bytes, bytes]) -> tuple[int, int, bytes]:
    """Returns (width, height, chunks) of the image.

    Args:
        extended: The body of the extended header; None in the simple form.
        kept: The chunks of the image, by kind.

    Raises:
        UnreadableImage: There is no image.
    """
    if extended is not None:
        flags = extended[0] & (_ALPHA | _ANIMATED)
        width = 1 + int.from_bytes(extended[4:7], "little")
        height = 1 + int.from_bytes(extended[7:10], "little")
        head = b"VP8X" + struct.pack("<I", 10) + bytes((flags, 0, 0, 0)) + extended[4:10]
        order = (b"ANIM", b"ANMF") if flags & _ANIMATED else (b"ALPH", b"VP8 ", b"VP8L")
        return width, height, head + b"".join(kept[kind] for kind in order if kind in kept)
    if b"VP8L" in kept:
        bits = int.from_bytes(kept[b"VP8L"][9:13], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF), kept[b"VP8L"]
    if b"VP8 " in kept:
        width, height = struct.unpack_from("<HH", kept[b"VP8 "], 14)
        return width & 0x3FFF, height & 0x3FFF, kept[b"VP8 "]
    raise UnreadableImage("the WebP has no image: is it complete?")
