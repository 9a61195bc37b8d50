"""JPEG: keeps the tables, the frame header and the scans, and bounds how often scans visit the samples.

Only what browsers read is read: baseline, extended and progressive Huffman coding. Arithmetic coding is refused: it
can code a million coefficients in a few bytes, so the file's size does not bound its cost.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from vtagent.errors import ImageTooLarge, UnreadableImage
from vtagent.formats.exif import orientation
from vtagent.formats.stripped import Counter, Stripped
from vtagent.limits import ImageLimits

__all__ = ["has_many_scans", "strip", "without_trailer"]

# A marker, after any padding or bytes that belong to no segment.
_MARKER = re.compile(rb"\xff([\x01-\xfe])")
# The marker that ends a scan: neither an escaped 0xff nor a restart marker.
_AFTER_SCAN = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")

_SOS, _EOI, _COM = 0xDA, 0xD9, 0xFE
_STANDALONE = {0x01, *range(0xD0, 0xD9)}
_READ = {0xC0, 0xC1, 0xC2}
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = 0xC2
_XMP = b"http://ns.adobe.com/xap/1.0/\0"


@dataclass(frozen=True)
class _Frame:
    """A frame header.

    Attributes:
        progressive: Whether scans refine each other.
        width: Width in pixels.
        height: Height in pixels.
        samples: Number of samples of each component, by the component's id.
    """

    progressive: bool
    width: int
    height: int
    samples: dict[int, int]


def strip(data: bytes, limits: ImageLimits) -> Stripped:
    """Returns a JPEG without metadata; see `vtagent.formats.strip`.

    Args:
        data: The encoded file.
        limits: Limits that its structure must meet.

    Raises:
        UnreadableImage: It is incomplete, or coded in a way that is not read.
        ImageTooLarge: It has too many segments, or its scans cover too many samples.
    """
    kept, exif = [b"\xff\xd8"], list[bytes]()
    xmp: bytes | None = None
    frame: _Frame | None = None
    segments = Counter("JPEG", "segments", limits)
    position = 2
    while True:
        segments.add()
        marker, start, end = _segment(data, position)
        position = end
        if marker in _STANDALONE:
            continue
        if marker == _EOI:
            raise UnreadableImage("the JPEG image ends before its pixels: is it complete?")
        if marker == _SOS:
            break
        if marker == 0xE1 and data.startswith(b"Exif\0\0", start + 2):
            exif.append(data[start + 2 + (6 if exif else 0) : end])
        elif marker == 0xE1 and data.startswith(_XMP, start + 2):
            xmp = data[start + 2 + len(_XMP) : end]
        elif marker == _COM or (0xE0 <= marker <= 0xEF and not _decides_colors(marker, data, start, end)):
            pass
        else:
            if marker in _FRAMES:
                if frame is not None:
                    raise UnreadableImage("the JPEG has two frame headers: save it again")
                frame = _frame(marker, data[start:end])
            kept.append(data[start - 2 : end])
    if frame is None:
        raise UnreadableImage("the JPEG has no frame header before its pixels: is it complete?")
    scanned = _scanned(data, start, frame, segments, limits)
    return Stripped(
        "JPEG",
        b"".join((*kept, data[start - 2 :])),
        frame.width,
        frame.height,
        orientation(b"".join(exif), xmp),
        buffers=2 * sum(frame.samples.values()) if scanned else 0,
        scanned=scanned,
    )


def has_many_scans(data: bytes) -> bool:
    """Returns whether a JPEG stream, such as a strip of a TIFF, may be decoded in more than one pass."""
    position = 2
    frame = None
    try:
        for _ in range(1000):
            marker, start, end = _segment(data, position)
            if marker in _FRAMES:
                frame = _frame(marker, data[start:end])
            if marker == _SOS:
                return frame is None or frame.progressive or data[start + 2] != len(frame.samples)
            position = end
    except (UnreadableImage, struct.error, IndexError):
        pass
    return True


def without_trailer(data: bytes) -> bytes:
    """Returns a JPEG of one scan up to its end marker: a phone may have put a second image behind it."""
    position = 2
    marker = 0
    while marker != _SOS:
        marker, _, position = _segment(data, position)
    end = _AFTER_SCAN.search(data, position)
    return data[: end.end()] if end and end[1][0] == _EOI else data


def _decides_colors(marker: int, data: bytes, start: int, end: int) -> bool:
    """Returns whether a segment is one by which decoders tell RGB from YCbCr and CMYK."""
    return (marker == 0xE0 and data.startswith(b"JFIF", start + 2) and end - start < 100) or (
        marker == 0xEE and data.startswith(b"Adobe", start + 2) and end - start < 100
    )


def _segment(data: bytes, position: int) -> tuple[int, int, int]:
    """Finds the next segment.

    Returns:
        (marker, place of its length, place behind it); the places are equal for a marker that stands alone.

    Raises:
        UnreadableImage: The file ends before it does.
    """
    found = _MARKER.search(data, position)
    if found is None:
        raise UnreadableImage("the JPEG image ends before its pixels: is it complete?")
    marker, start = found[1][0], found.end()
    if marker in _STANDALONE or marker == _EOI:
        return marker, start, start
    (length,) = struct.unpack_from(">H", data, start)
    if length < 2 or start + length > len(data):
        raise UnreadableImage("the JPEG ends inside a segment: is it complete?")
    return marker, start, start + length


def _frame(marker: int, segment: bytes) -> _Frame:
    """Reads a frame header.

    Raises:
        UnreadableImage: The coding is not read, or the header is wrong.
    """
    if marker not in _READ:
        raise UnreadableImage("the JPEG is lossless, hierarchical or arithmetic: save it as a baseline JPEG")
    bits, height, width, count = struct.unpack_from(">xxBHHB", segment)
    if bits != 8:
        raise UnreadableImage(f"the JPEG has {bits} bits a sample: save it with 8")
    factors = {}
    for at in range(8, 8 + 3 * count, 3):
        sampling = segment[at + 1]
        factors[segment[at]] = (max(1, sampling >> 4), max(1, sampling & 15))
    most = max(h for h, _ in factors.values()), max(v for _, v in factors.values())
    samples = {
        name: (-(-width * h // most[0]) + 7) // 8 * ((-(-height * v // most[1]) + 7) // 8) * 64
        for name, (h, v) in factors.items()
    }
    return _Frame(marker == _PROGRESSIVE, width, height, samples)


def _scanned(data: bytes, start: int, frame: _Frame, segments: Counter, limits: ImageLimits) -> int:
    """Returns the number of samples that all scans cover; 0 for one scan of all components, which needs no buffer.

    Args:
        data: The file.
        start: Place of the length of the first scan's header.
        frame: The frame header.
        segments: Counts the segments.
        limits: Limits of the scans.

    Raises:
        ImageTooLarge: The scans cover too many samples.
    """
    covered, scans, most = 0, 0, limits.max_scans * limits.max_pixels
    while True:
        (length, count) = struct.unpack_from(">HB", data, start)
        if not frame.progressive and count == len(frame.samples):
            return covered
        names = data[start + 3 : start + 3 + 2 * count : 2]
        covered += sum(frame.samples.get(name, 0) for name in names)
        scans += 1
        if covered > most:
            raise ImageTooLarge(
                f"the JPEG has {scans} or more scans over {frame.width}x{frame.height} pixels, which takes too long to "
                "decode: save it as a baseline JPEG"
            )
        found = _AFTER_SCAN.search(data, start + length)
        while found is not None and found[1][0] != _SOS:
            segments.add()
            if found[1][0] == _EOI or found.end() + 2 > len(data):
                return covered
            after = found.end()
            if found[1][0] not in _STANDALONE:
                after += struct.unpack_from(">H", data, after)[0]
            found = _MARKER.search(data, after)
        if found is None or found.end() + 3 > len(data):
            return covered
        segments.add()
        start = found.end()
