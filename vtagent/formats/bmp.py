"""BMP: has no metadata. A run-length BMP is decoded alone: Pillow decodes it in Python, in time that it chooses."""

from __future__ import annotations

import struct

from vtagent.errors import UnreadableImage
from vtagent.formats.stripped import Stripped
from vtagent.limits import ImageLimits

__all__ = ["strip"]

_RUN_LENGTH = (1, 2)


def strip(data: bytes, limits: ImageLimits) -> Stripped:
    """Returns a BMP; see `vtagent.formats.strip`.

    Args:
        data: The encoded file.
        limits: Not needed: the header says all.

    Raises:
        UnreadableImage: It is incomplete.
    """
    del limits
    if len(data) < 26:
        raise UnreadableImage("the BMP ends inside its header: is it complete?")
    (header,) = struct.unpack_from("<I", data, 14)
    if header == 12:
        width, height = struct.unpack_from("<HH", data, 18)
        return Stripped("BMP", data, width, height)
    width, height = struct.unpack_from("<Ii", data, 18)
    (compression,) = struct.unpack_from("<I", data, 30)
    alone = compression in _RUN_LENGTH
    return Stripped("BMP", data, width, abs(height), buffers=2 * width * abs(height) if alone else 0, alone=alone)
