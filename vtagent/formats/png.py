"""PNG: keeps the header, the palette, the transparent colour and the pixels, joined to one chunk."""

from __future__ import annotations

import struct
import zlib

from vtagent.errors import UnreadableImage
from vtagent.formats.exif import orientation
from vtagent.formats.stripped import Counter, Stripped, refuse_frames
from vtagent.limits import ImageLimits

__all__ = ["strip"]

_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_EXIF_TEXT = b"Raw profile type exif"
_XMP_TEXT = b"XML:com.adobe.xmp"


def strip(data: bytes, limits: ImageLimits) -> Stripped:
    """Returns a PNG without metadata; see `vtagent.formats.strip`.

    Args:
        data: The encoded file.
        limits: Limits that its structure must meet.

    Raises:
        UnreadableImage: It is incomplete or animated.
        ImageTooLarge: It has too many chunks.
    """
    if data[12:16] != b"IHDR" or len(data) < 33:
        raise UnreadableImage("the PNG image does not begin with its header: is it complete?")
    width, height, depth, color = struct.unpack_from(">IIBB", data, 16)
    kept, pixels, texts = [data[:33]], [], {}
    exif: bytes | None = None
    ended = False  # another chunk between the pixels' chunks ends them, as in Pillow
    chunks = Counter("PNG", "chunks", limits)
    position = 33
    while position + 8 <= len(data):
        chunks.add()
        length, kind = struct.unpack_from(">I4s", data, position)
        body, end = position + 8, position + 8 + length
        position = end + 4
        if kind == b"IDAT":
            if not ended:
                pixels.append(data[body:end])
            continue
        ended = bool(pixels)
        if kind == b"IEND":
            break
        if kind in (b"PLTE", b"tRNS") and not pixels:
            kept.append(data[body - 8 : end + 4])
        elif kind == b"fdAT" or (kind == b"acTL" and int.from_bytes(data[body : body + 4], "big") > 1):
            raise refuse_frames("PNG")
        elif kind == b"eXIf":
            exif = data[body:end]
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            for name in (_EXIF_TEXT, _XMP_TEXT):
                if data.startswith(name + b"\0", body):
                    texts[name] = kind, data[body + len(name) + 1 : end]
    if not pixels:
        raise UnreadableImage("the PNG image ends before its pixels: is it complete?")
    joined = b"IDAT" + b"".join(pixels)
    kept += [struct.pack(">I", len(joined) - 4), joined, struct.pack(">I", zlib.crc32(joined))]
    kept.append(b"\0\0\0\0IEND\xaeB`\x82")
    if exif is None and _EXIF_TEXT in texts:
        exif = _from_hex(_text(*texts[_EXIF_TEXT], limits))
    xmp = _text(*texts[_XMP_TEXT], limits) if _XMP_TEXT in texts else None
    row = -(-width * _SAMPLES.get(color, 4) * depth // 8)
    return Stripped("PNG", b"".join(kept), width, height, orientation(exif, xmp), (1 + row) * height, bits=depth)


def _text(kind: bytes, body: bytes, limits: ImageLimits) -> bytes:
    """Returns the text of a chunk.

    Args:
        kind: The chunk's type: tEXt, zTXt or iTXt.
        body: Its content behind the keyword.
        limits: Limits, of which `max_metadata_bytes` counts.

    Returns:
        The text; empty if it is too long when inflated, or cannot be.
    """
    if kind == b"tEXt":
        return body
    packed = kind == b"zTXt" or body[:1] == b"\1"
    # Before the text, zTXt has a method; iTXt has a flag, a method, a language and a translated keyword.
    body = body[1:] if kind == b"zTXt" else body[2:].split(b"\0", 2)[-1]
    if not packed:
        return body
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(body, limits.max_metadata_bytes)
    except zlib.error:
        return b""
    return b"" if inflater.unconsumed_tail else text


def _from_hex(text: bytes) -> bytes | None:
    """Returns the EXIF block in a text that ImageMagick has written: three lines of head, then hex digits."""
    try:
        return bytes.fromhex("".join(text.decode("latin-1").split("\n")[3:]))
    except ValueError:
        return None
