"""TIFF: keeps the tags that decide the pixels, in a new directory behind the file's data.

The codecs in use are bounded by the size of what they write: none, CCITT, LZW, Deflate, PackBits and baseline JPEG. The
others (old JPEG, LZMA, Zstandard, WebP, LogLuv, ThunderScan, JPEG in several scans) are decoded alone.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from vtagent.errors import ImageTooLarge, UnreadableImage
from vtagent.formats import jpeg
from vtagent.formats.exif import orientation
from vtagent.formats.stripped import Counter, Stripped, refuse_frames
from vtagent.limits import ImageLimits

__all__ = ["page_starts", "strip"]

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_INTEGERS = {1: "B", 3: "H", 4: "L", 13: "L", 16: "Q"}

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
STRIP_OFFSETS, ORIENTATION, SAMPLES, ROWS, STRIP_BYTES = 273, 274, 277, 278, 279
COLORS, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES = 320, 322, 323, 324, 325
SAMPLE_FORMAT, XMP, SUBFILE = 339, 700, 254

_NO_PAGE = 1 | 4
"""Bits of the tag of subfiles: a reduced version of another image, a mask of one."""

_LISTS = {STRIP_OFFSETS, STRIP_BYTES, TILE_OFFSETS, TILE_BYTES}
_KEPT = {
    *(WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, ROWS, COLORS, TILE_WIDTH, TILE_HEIGHT, SAMPLE_FORMAT),
    *_LISTS,
    *(266, 284, 292, 293, 317, 332, 338, 347),  # fill order, planes, CCITT, predictor, inks, extra samples, JPEG tables
    *(512, 513, 514, 515, 517, 518, 519, 520, 521),  # old JPEG
    *(529, 530, 531, 532),  # YCbCr
}
_MOST_BYTES = 2**20
"""A kept tag that is not a list of strips or tiles is at most this long, in bytes."""

_BOUNDED = {1, 2, 3, 4, 5, 7, 8, 32773, 32946}
_JPEG = 7
_REUSE = 8
"""Strips may claim this many times the bytes of the file: writers let blank tiles share their data."""


@dataclass(frozen=True)
class _Entry:
    """An entry of a directory: the type and number of its values, and the place of the first."""

    kind: int
    count: int
    place: int


class _Directory:
    """The directory of one page of a TIFF.

    Args:
        data: The file.
        limits: Limits of its parts.
        start: Where the directory begins; None for the only one of the file.

    Raises:
        UnreadableImage: It points outside the file, or is one of several and none was named.
        ImageTooLarge: It has too many entries.
    """

    def __init__(self, data: bytes, limits: ImageLimits, start: int | None = None) -> None:
        self.data = data
        self.order = "<" if data[:2] == b"II" else ">"
        self.big = 43 in data[2:4]
        word = "Q" if self.big else "L"
        self.entry_size, self.inline = (20, 8) if self.big else (12, 4)
        alone = start is None
        if start is None:
            (start,) = struct.unpack_from(self.order + word, data, 8 if self.big else 4)
        (count,) = struct.unpack_from(self.order + ("Q" if self.big else "H"), data, start)
        Counter("TIFF", "tags", limits).add(count)
        first = start + (8 if self.big else 2)
        behind = first + count * self.entry_size
        (following,) = struct.unpack_from(self.order + word, data, behind)
        if alone and following not in (0, start):
            raise refuse_frames("TIFF")
        self.entries: dict[int, _Entry] = {}
        self.raw: dict[int, bytes] = {}
        wanted = _KEPT | {ORIENTATION, XMP, SUBFILE}
        for at in range(first, behind, self.entry_size):
            tag, kind, number = struct.unpack_from(self.order + "HH" + word, data, at)
            if tag not in wanted or tag in self.entries or kind not in _SIZES or number == 0:
                continue
            place, size = at + self.entry_size - self.inline, number * _SIZES[kind]
            if size > self.inline:
                (place,) = struct.unpack_from(self.order + word, data, place)
            if place + size > len(data):
                if tag in (ORIENTATION, XMP, SUBFILE):
                    continue
                raise UnreadableImage(f"the TIFF's tag {tag} points outside the file: is it complete?")
            if tag in _LISTS:
                Counter("TIFF", "strips or tiles", limits).add(number)
            elif size > _MOST_BYTES and tag != XMP:
                raise ImageTooLarge(f"the TIFF's tag {tag} has {size} bytes: save it again with an ordinary program")
            self.entries[tag] = _Entry(kind, number, place)
            self.raw[tag] = data[at : at + self.entry_size]

    def values(self, tag: int) -> tuple[int, ...]:
        """Returns the integers of a tag; none if it is missing or holds no integers."""
        entry = self.entries.get(tag)
        if entry is None or entry.kind not in _INTEGERS:
            return ()
        return struct.unpack_from(f"{self.order}{entry.count}{_INTEGERS[entry.kind]}", self.data, entry.place)

    def value(self, tag: int, default: int) -> int:
        """Returns the first integer of a tag, or `default`."""
        return next(iter(self.values(tag)), default)

    def rewritten(self) -> bytes:
        """Returns the file with a directory of the kept tags alone. All data stays in place."""
        raw = [self.raw[tag] for tag in sorted(self.raw) if tag in _KEPT]
        place = len(self.data) + len(self.data) % 2
        word = "Q" if self.big else "L"
        head = self.data[:8] if self.big else self.data[:4]
        pointer = struct.pack(self.order + word, place)
        table = struct.pack(self.order + ("Q" if self.big else "H"), len(raw)) + b"".join(raw)
        table += struct.pack(self.order + word, 0)
        return b"".join((head, pointer, self.data[len(head) + len(pointer) :].ljust(place - 8 - 8 * self.big), table))


def page_starts(data: bytes, limits: ImageLimits) -> list[int]:
    """Returns where the directory of each page begins. Thumbnails and masks are no pages.

    Args:
        data: The encoded file.
        limits: Limits that its structure must meet.

    Raises:
        UnreadableImage: It is no TIFF, has no page, or a directory points outside the file or back to an earlier one.
        ImageTooLarge: It has too many pages.
    """
    try:
        return _page_starts(data, limits)
    except struct.error:
        raise UnreadableImage("a directory of the TIFF lies outside the file: is it complete?") from None


def _page_starts(data: bytes, limits: ImageLimits) -> list[int]:
    if data[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        raise UnreadableImage("not a TIFF")
    order, big = "<" if data[:2] == b"II" else ">", 43 in data[2:4]
    word, size, head = ("Q", 20, 8) if big else ("L", 12, 2)
    pages: list[int] = []
    seen: set[int] = set()
    (start,) = struct.unpack_from(order + word, data, 8 if big else 4)
    while start:
        if start in seen:
            raise UnreadableImage("the TIFF's pages form a circle: save it again with an ordinary program")
        seen.add(start)
        if len(seen) > limits.documents.max_pages:
            raise ImageTooLarge(f"the TIFF has more than {limits.documents.max_pages} pages: split it")
        (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
        Counter("TIFF", "tags", limits).add(count)
        (following,) = struct.unpack_from(order + word, data, start + head + count * size)
        if not _Directory(data, limits, start).value(SUBFILE, 0) & _NO_PAGE:
            pages.append(start)
        start = following
    if not pages:
        raise UnreadableImage("the TIFF has no page")
    return pages


def strip(data: bytes, limits: ImageLimits, start: int | None = None) -> Stripped:
    """Returns a TIFF without metadata; see `vtagent.formats.strip`.

    Args:
        data: The encoded file.
        limits: Limits that its structure must meet.
        start: Where the directory of the page that is kept begins; None if there must be one only.

    Raises:
        UnreadableImage: It is incomplete, has several pages, or signed samples.
        ImageTooLarge: It has too many tags or strips.
    """
    directory = _Directory(data, limits, start)
    width, height = directory.value(WIDTH, 0), directory.value(HEIGHT, 0)
    bits, samples = directory.values(BITS) or (1,), directory.value(SAMPLES, 1)
    if bits[0] <= 16 and any(value not in (1, 4) for value in directory.values(SAMPLE_FORMAT)):
        raise UnreadableImage("the TIFF has signed samples or floats: save it with unsigned samples of 8 or 16 bits")
    compression = directory.value(COMPRESSION, 1)
    offsets = directory.values(STRIP_OFFSETS) or directory.values(TILE_OFFSETS)
    lengths = directory.values(STRIP_BYTES) or directory.values(TILE_BYTES)
    if sum(lengths) > _REUSE * len(data):
        raise UnreadableImage(f"the TIFF's strips claim {sum(lengths)} bytes of a file of {len(data)}: is it complete?")
    many_scans = compression == _JPEG and any(
        jpeg.has_many_scans(data[at : at + length]) for at, length in zip(offsets, lengths, strict=False)
    )
    pixel_bits = max(max(bits) * samples, sum(bits))
    across = directory.value(TILE_WIDTH, width)
    down = directory.value(TILE_HEIGHT, min(height, directory.value(ROWS, height)))
    xmp = directory.entries.get(XMP)
    return Stripped(
        "TIFF",
        directory.rewritten(),
        width,
        height,
        _orientation(directory, data[xmp.place : xmp.place + xmp.count] if xmp else None),
        decoded_bytes=width * height * pixel_bits // 8,
        buffers=across * down * pixel_bits // 8,
        bits=bits[0],
        white_is_zero=directory.value(PHOTOMETRIC, 0) == 0 and bits[0] == 16,
        alone=compression not in _BOUNDED or many_scans,
    )


def _orientation(directory: _Directory, xmp: bytes | None) -> int:
    value = directory.value(ORIENTATION, 0)
    return value if 1 <= value <= 8 else orientation(None, xmp)
