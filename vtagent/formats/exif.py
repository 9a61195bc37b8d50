"""Reads the orientation out of EXIF and XMP in bounded time, as Pillow does, and nothing else."""

from __future__ import annotations

import re
import struct

__all__ = ["orientation"]

_ORIENTATION = 274
_INTEGERS = {3: "H", 4: "L", 6: "b", 8: "h", 9: "l", 13: "L"}
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_HEADS = (b"II*\0", b"MM\0*", b"MM*\0", b"II\0*")
_PREFIX = re.compile(rb"(?:Exif\0\0){1,2}")
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


def orientation(exif: bytes | None, xmp: bytes | None = None) -> int:
    """Returns the EXIF orientation, 1 to 8. Unreadable EXIF counts as upright, as in image viewers.

    Args:
        exif: The EXIF block, with or without its "Exif" prefix.
        xmp: The XMP packet. It counts if the EXIF block does not say an orientation.
    """
    value = None
    if exif:
        prefix = _PREFIX.match(exif)
        try:
            value = _in_exif(exif[prefix.end() :] if prefix else exif)
        except struct.error:
            return 1
    if value is None and xmp:
        found = _XMP.search(xmp)
        value = int(found[1]) if found else None
    return value if value is not None and 1 <= value <= 8 else 1


def _in_exif(block: bytes) -> int | None:
    """Returns the first orientation in the block's first directory; None if there is none, 0 for no integer.

    Raises:
        struct.error: The block is not EXIF.
    """
    if not block:
        return None
    if block[:4] not in _HEADS:
        raise struct.error("not EXIF")
    order = "<" if block[:2] == b"II" else ">"
    (start,) = struct.unpack_from(order + "L", block, 4)
    if start + 2 > len(block):
        return None
    (count,) = struct.unpack_from(order + "H", block, start)
    listed = 0  # bytes of all values that do not stand in their entries
    for at in range(start + 2, min(start + 2 + 12 * count, len(block) - 11), 12):
        tag, kind, number = struct.unpack_from(order + "HHL", block, at)
        if kind not in _SIZES:
            continue
        place, size = at + 8, number * _SIZES[kind]
        if size > 4:
            (place,) = struct.unpack_from(order + "L", block, place)
            listed += size
            if listed > len(block):
                continue
            if place + size > len(block):  # Pillow reads no further behind such an entry
                return None
        if tag != _ORIENTATION or number == 0:
            continue
        if kind not in _INTEGERS:
            return 0
        (value,) = struct.unpack_from(order + _INTEGERS[kind], block, place)
        return int(value)
    return None
