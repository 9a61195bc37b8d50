"""GIF: keeps the palette, the transparent colour and the first image, without comments."""

from __future__ import annotations

import re
import struct

from vtagent.errors import UnreadableImage
from vtagent.formats.stripped import Counter, Stripped, refuse_frames
from vtagent.limits import ImageLimits

__all__ = ["strip"]

_INTRODUCER = re.compile(rb"[!,;]")
_GRAPHIC_CONTROL = 0xF9


def strip(data: bytes, limits: ImageLimits) -> Stripped:
    """Returns a GIF without metadata; see `vtagent.formats.strip`.

    Args:
        data: The encoded file.
        limits: Limits that its structure must meet.

    Raises:
        UnreadableImage: It is incomplete or animated.
        ImageTooLarge: It has too many blocks.
    """
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = 13 + (3 << (flags & 7) + 1 if flags & 128 else 0)
    kept = [data[:position]]
    blocks = Counter("GIF", "blocks", limits)
    found_image = False
    while (found := _INTRODUCER.search(data, position)) is not None:
        blocks.add()
        start = found.start()
        if data[start] == ord(";"):
            break
        if data[start] == ord("!"):
            position = _behind(data, start + 2, blocks)
            if data[start + 1 : start + 2] == bytes((_GRAPHIC_CONTROL,)) and not found_image:
                kept.append(data[start:position])
            continue
        if found_image:
            raise refuse_frames("GIF")
        found_image = True
        left, top, across, down, flags = struct.unpack_from("<HHHHB", data, start + 1)
        width, height = max(width, left + across), max(height, top + down)
        position = _behind(data, start + 11 + (3 << (flags & 7) + 1 if flags & 128 else 0), blocks)
        kept.append(data[start:position])
    if not found_image:
        raise UnreadableImage("the GIF ends before its image: is it complete?")
    return Stripped("GIF", b"".join((*kept, b";")), width, height)


def _behind(data: bytes, position: int, blocks: Counter) -> int:
    """Returns the place behind the blocks that start at `position`; the end of a file that ends inside them."""
    size = len(data)
    count = 0
    while position < size and data[position]:
        position += data[position] + 1
        count += 1
        if count == 4096:
            blocks.add(count)
            count = 0
    blocks.add(count)
    return min(position + 1, size)
