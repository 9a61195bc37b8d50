"""Small files that ask a decoder for a lot: each is made in a few lines, at the size that a test wants."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence

from PIL import Image

from tests.image_samples import encode, solid

MILLION = 1_000_000


# ---- JPEG ----------------------------------------------------------------------------------------------------------


def segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def jpeg_of_scans(count: int, size: tuple[int, int] = (5000, 5000)) -> bytes:
    """A progressive JPEG whose last scan is repeated; each repetition visits all blocks again."""
    data = encode(solid(size), "JPEG", progressive=True)
    last = data.rfind(b"\xff\xda")
    tables = data.rfind(b"\xff\xc4", 0, last)
    scan = data[tables : data.rfind(b"\xff\xd9")]
    present = data.count(b"\xff\xda")
    return data[: data.rfind(b"\xff\xd9")] + scan * (count - present) + b"\xff\xd9"


def jpeg_of_separate_scans(count: int, size: tuple[int, int] = (4000, 4000)) -> bytes:
    """A sequential JPEG with one component a scan, which are repeated."""
    head = encode(solid(size), "JPEG")
    start = head.find(b"\xff\xda")
    blocks = (size[0] // 16) * (size[1] // 16)
    body = b"\x00" * (blocks // 8)
    scans = b"".join(segment(0xDA, bytes((1, 1 + n % 3, 0x00, 0, 63, 0))) + body for n in range(count))
    return head[:start] + scans + b"\xff\xd9"


def jpeg_of_comments(count: int) -> bytes:
    data = encode(solid(), "JPEG")
    return data[:2] + segment(0xFE, b"") * count + data[2:]


def jpeg_with_junk(size: int) -> bytes:
    """Bytes between segments that belong to none."""
    data = encode(solid(), "JPEG")
    return data[:2] + b"\x00" * size + data[2:]


def exif_of_rationals(count: int, tag: int = 0x011A) -> bytes:
    """An EXIF block whose resolution is a list of rationals."""
    entries = struct.pack("<HHLL", tag, 5, count, 38) + struct.pack("<HHLHH", 0x0128, 3, 1, 2, 0)
    head = b"II*\0" + struct.pack("<L", 8) + struct.pack("<H", 2) + entries + struct.pack("<L", 0)
    return head + struct.pack("<LL", 1, 3) * count


def exif_of_entries(count: int) -> bytes:
    entries = b"".join(struct.pack("<HHLHH", tag, 3, 1, 1, 0) for tag in range(300, 300 + count))
    return b"II*\0" + struct.pack("<L", 8) + struct.pack("<H", count) + entries + struct.pack("<L", 0)


def jpeg_with_exif(exif: bytes) -> bytes:
    """A JPEG with EXIF of any length, cut into segments as Pillow joins them."""
    data = encode(solid(), "JPEG")
    parts = [segment(0xE1, b"Exif\0\0" + exif[at : at + 65_000]) for at in range(0, len(exif), 65_000)]
    return data[:2] + b"".join(parts) + data[2:]


def jpeg_without_pixels(size: tuple[int, int] = (8000, 8000)) -> bytes:
    """The header of a large JPEG and its end marker, with nothing between them."""
    data = encode(solid(size), "JPEG", quality=95, subsampling=0)
    start = data.find(b"\xff\xda")
    return data[: start + 14] + b"\xff\xd9"


# ---- PNG -----------------------------------------------------------------------------------------------------------


def png_chunk(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(size: tuple[int, int], *, depth: int = 8, color: int = 2, interlace: int = 0, filter: int = 0) -> bytes:
    """A PNG of zeros."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    row = bytes((filter,)) + bytes(-(-size[0] * channels * depth // 8))
    if interlace:
        steps = ((8, 8, 0, 0), (8, 8, 4, 0), (4, 8, 0, 4), (4, 4, 2, 0), (2, 4, 0, 2), (2, 2, 1, 0), (1, 2, 0, 1))
        passes = [(-(-(size[0] - x) // dx), -(-(size[1] - y) // dy)) for dx, dy, x, y in steps]
        total = sum((1 + -(-width * channels * depth // 8)) * height for width, height in passes if width > 0)
        raw, count = bytes(1), total
    else:
        raw, count = row, size[1]
    packer = zlib.compressobj(9)
    parts, batch = [], max(1, 2**20 // len(raw))
    for at in range(0, count, batch):
        parts.append(packer.compress(raw * min(batch, count - at)))
    pixels = b"".join(parts) + packer.flush()
    header = struct.pack(">IIBBBBB", *size, depth, color, 0, 0, interlace)
    palette = png_chunk(b"PLTE", bytes(768)) if color == 3 else b""
    chunks = [png_chunk(b"IHDR", header), palette, png_chunk(b"IDAT", pixels), png_chunk(b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def png_with(extra: bytes, *, behind: bool = False) -> bytes:
    """A small PNG with chunks before or behind its pixels."""
    data = encode(solid())
    place = data.rfind(b"IEND") - 4 if behind else 33
    return data[:place] + extra + data[place:]


def png_of_text(kind: bytes, count: int, size: int = 1000) -> bytes:
    """Compressed text chunks that inflate to `size` bytes each."""
    packed = zlib.compress(bytes(size), 9)
    body = {b"zTXt": b"k\0\0", b"iTXt": b"k\0\1\0\0\0", b"iCCP": b"k\0\0", b"tEXt": b"k\0"}[kind]
    return png_with(png_chunk(kind, body + (packed if kind != b"tEXt" else b"")) * count)


def png_of_small_idats(count: int) -> bytes:
    """A PNG whose pixels are cut into chunks of one byte, with empty ones between."""
    data = encode(Image.effect_noise((64, 64), 90))
    start = data.find(b"IDAT") - 4
    length = int.from_bytes(data[start : start + 4], "big")
    pixels = data[start + 8 : start + 8 + length]
    empty = png_chunk(b"IDAT") * max(0, count - length)
    cut = b"".join(png_chunk(b"IDAT", pixels[at : at + 1]) for at in range(length))
    return data[:start] + empty + cut + data[start + 12 + length :]


# ---- GIF, WebP, BMP ------------------------------------------------------------------------------------------------


def gif_of_comments(count: int, *, blocks: int = 1) -> bytes:
    """A GIF with `count` comment extensions of `blocks` blocks of one byte before its image."""
    data = encode(solid(mode="P", color=1), "GIF")
    place = data.find(b",", 13)
    for at in range(13, len(data)):  # the image descriptor of the whole canvas
        if data[at : at + 9] == b"," + struct.pack("<HHHH", 0, 0, 64, 48):
            place = at
            break
    return data[:place] + (b"!\xfe" + b"\x01x" * blocks + b"\0") * count + data[place:]


def gif_of_small_blocks(size: tuple[int, int] = (2000, 2000)) -> bytes:
    """A GIF whose compressed pixels are cut into blocks of one byte."""
    data = encode(Image.effect_noise(size, 90), "GIF")
    marker = b"," + struct.pack("<HHHH", 0, 0, *size)
    start = data.find(marker) + 11  # descriptor and code size
    parts, at = [], start
    while data[at]:
        parts.append(data[at + 1 : at + 1 + data[at]])
        at += 1 + data[at]
    return data[:start] + b"".join(bytes((1, byte)) for byte in b"".join(parts)) + data[at:]


def riff(*chunks: bytes) -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def riff_chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def webp_of_one_color(size: tuple[int, int] = (16383, 3900)) -> bytes:
    """A lossless WebP of 38 bytes: every code has one symbol, so no pixel takes a bit."""
    bits, length = 0x2F, 8

    def put(value: int, count: int) -> None:
        nonlocal bits, length
        bits |= value << length
        length += count

    put(size[0] - 1, 14)
    put(size[1] - 1, 14)
    put(1, 1)  # alpha is used
    put(0, 3)  # version
    put(0, 1)  # no transform
    put(0, 1)  # no colour cache
    put(0, 1)  # one group of codes
    for symbol in (77, 10, 20, 128, 0):
        put(1, 1)  # simple code
        put(0, 1)  # of one symbol
        put(1, 1)  # of 8 bits
        put(symbol, 8)
    return riff(riff_chunk(b"VP8L", bits.to_bytes(18, "little")))


def webp_of_chunks(count: int) -> bytes:
    data = encode(solid(), "WEBP", lossless=True)
    body = riff_chunk(b"VP8X", b"\0\0\0\0" + (63).to_bytes(3, "little") + (47).to_bytes(3, "little"))
    return riff(body, riff_chunk(b"abcd", b"") * count, data[12:])


def bmp_of_runs(runs: bytes, size: tuple[int, int]) -> bytes:
    """A run-length BMP with 256 colours."""
    palette = b"".join(bytes((n, 255 - n, n, 0)) for n in range(256))
    info = struct.pack("<IiiHHIIiiII", 40, *size, 1, 8, 1, len(runs), 0, 0, 256, 0)
    offset = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", offset + len(runs), 0, 0, offset) + info + palette + runs


def bmp_of_short_runs(count: int) -> bytes:
    return bmp_of_runs(b"\x01\x07" * count + b"\0\1", (4000, -(-count // 4000)))


def bmp_of_line_ends(size: tuple[int, int] = (8000, 8000)) -> bytes:
    return bmp_of_runs(b"\x01\x07\0\0" * size[1] + b"\0\1", size)


def bmp_of_empty_steps(count: int) -> bytes:
    return bmp_of_runs(b"\0\2\0\0" * count + b"\0\1", (64, 48))


# ---- TIFF ----------------------------------------------------------------------------------------------------------

Entry = tuple[int, int, Sequence[int]]
_TYPES = {1: "B", 2: "B", 3: "H", 4: "L", 5: "L", 7: "B", 16: "Q"}
SHORT, LONG, RATIONAL = 3, 4, 5


def tiff(entries: Sequence[Entry], pixels: bytes = b"", *, following: int = 0, order: str = "<") -> bytes:
    """A TIFF with these (tag, type, values) entries; pixels lie at byte 8."""
    at = 8 + len(pixels) + len(pixels) % 2
    tail_at = at + 2 + 12 * len(entries) + 4
    table, tail = b"", bytearray()
    for tag, kind, values in entries:
        packed = struct.pack(f"{order}{len(values)}{_TYPES[kind]}", *values)
        count = len(values) // 2 if kind == RATIONAL else len(values)
        table += struct.pack(order + "HHL", tag, kind, count)
        if len(packed) <= 4:
            table += packed.ljust(4, b"\0")
        else:
            table += struct.pack(order + "L", tail_at + len(tail))
            tail += packed
    magic = b"II*\0" if order == "<" else b"MM\0*"
    start = magic + struct.pack(order + "L", at) + pixels.ljust(at - 8, b"\0")
    return start + struct.pack(order + "H", len(entries)) + table + struct.pack(order + "L", following) + tail


def grey(
    size: tuple[int, int], *, bits: int = 8, photometric: int = 1, strips: int = 1, length: int = 0
) -> list[Entry]:
    """The entries of an uncompressed grey TIFF with all its pixels at byte 8."""
    rows = -(-size[1] // strips)
    row = -(-size[0] * bits // 8)
    offsets = [8 + n * rows * row for n in range(strips)]
    return [
        (256, LONG, [size[0]]),
        (257, LONG, [size[1]]),
        (258, SHORT, [bits]),
        (259, SHORT, [1]),
        (262, SHORT, [photometric]),
        (273, LONG, offsets),
        (277, SHORT, [1]),
        (278, LONG, [rows]),
        (279, LONG, [rows * row] * strips),
    ]


def tiff_of_rationals(count: int) -> bytes:
    return tiff([*grey((8, 8)), (282, RATIONAL, [1, 3] * count), (283, RATIONAL, [1, 3] * count)], bytes(64))


def tiff_of_entries(count: int) -> bytes:
    extra: list[Entry] = [(tag, SHORT, [1]) for tag in range(40_000, 40_000 + min(count, 25_000))]
    return tiff([*grey((8, 8)), *extra], bytes(64))


def tiff_of_pages(count: int) -> bytes:
    """A chain of empty pages behind one image."""
    first = tiff(grey((8, 8)), bytes(64))
    base = len(first) + len(first) % 2
    first = tiff(grey((8, 8)), bytes(64), following=base).ljust(base, b"\0")
    pages = b"".join(struct.pack("<HL", 0, base + 6 * (n + 1) if n + 1 < count else 0) for n in range(count))
    return first + pages


def bigtiff_of_entries(count: int) -> bytes:
    needed = [(256, 8), (257, 8), (258, 8), (259, 1), (262, 1), (273, 16), (277, 1), (278, 8), (279, 64)]
    table = b"".join(struct.pack("<HHQQ", tag, 4, 1, value) for tag, value in needed)
    table += b"".join(struct.pack("<HHQQ", 1000 + n % 60_000, 4, 1, 1) for n in range(count))
    return (
        b"II+\0\x08\0\0\0"
        + struct.pack("<Q", 80)
        + bytes(64)
        + struct.pack("<Q", len(needed) + count)
        + table
        + bytes(8)
    )


def tiff_of_strips(count: int, *, compression: int = 1) -> bytes:
    """One row a strip, and every strip at the same place."""
    entries = grey((200, count), strips=1)
    entries[3] = (259, SHORT, [compression])
    entries[5] = (273, LONG, [8] * count)
    entries[7] = (278, LONG, [1])
    row = bytes(200) if compression == 1 else zlib.compress(bytes(200))
    entries[8] = (279, LONG, [len(row)] * count)
    return tiff(entries, row)


def tiff_of_shared_strips(count: int, size: int) -> bytes:
    """Deflated strips that all claim the same `size` bytes, of which each needs a few."""
    entries = grey((200, count))
    entries[3] = (259, SHORT, [8])
    entries[5] = (273, LONG, [8] * count)
    entries[7] = (278, LONG, [1])
    entries[8] = (279, LONG, [size] * count)
    return tiff([*entries, (266, SHORT, [2])], zlib.compress(bytes(200)).ljust(size, b"\0"))


def tiff_of_huge_tiles(side: int = 30_000) -> bytes:
    """A small image in one deflated tile of `side` times `side` pixels."""
    packer = zlib.compressobj(9)
    pixels = b"".join(packer.compress(bytes(side)) for _ in range(side)) + packer.flush()
    keep = [entry for entry in grey((64, 48)) if entry[0] not in (259, 273, 278, 279)]
    tiles: list[Entry] = [(322, LONG, [side]), (323, LONG, [side]), (324, LONG, [8]), (325, LONG, [len(pixels)])]
    return tiff([*keep, (259, SHORT, [8]), *tiles], pixels)


def tiff_of_jpeg(stream: bytes, size: tuple[int, int]) -> bytes:
    """A TIFF with one strip that is a JPEG file."""
    entries: list[Entry] = [
        (256, LONG, [size[0]]),
        (257, LONG, [size[1]]),
        (258, SHORT, [8, 8, 8]),
        (259, SHORT, [7]),
        (262, SHORT, [6]),
        (273, LONG, [8]),
        (277, SHORT, [3]),
        (278, LONG, [size[1]]),
        (279, LONG, [len(stream)]),
        (530, SHORT, [2, 2]),
    ]
    return tiff(entries, stream)


COSTLY: dict[str, Callable[[], bytes]] = {
    "JPEG, 500 scans": lambda: jpeg_of_scans(500),
    "JPEG, 500 scans of one component": lambda: jpeg_of_separate_scans(500),
    "JPEG, 60 scans, 50 Mpx": lambda: jpeg_of_scans(60, (7000, 7000)),
    "JPEG, 64 Mpx, no data": jpeg_without_pixels,
    "JPEG, a million comments": lambda: jpeg_of_comments(MILLION),
    "JPEG, 16 MB between segments": lambda: jpeg_with_junk(16 * MILLION),
    "JPEG, EXIF of a million rationals": lambda: jpeg_with_exif(exif_of_rationals(MILLION)),
    "JPEG, EXIF of 60,000 entries": lambda: jpeg_with_exif(exif_of_entries(60_000)),
    "PNG, a million chunks": lambda: png_with(png_chunk(b"abCd") * MILLION),
    "PNG, a million chunks behind": lambda: png_with(png_chunk(b"abCd") * MILLION, behind=True),
    "PNG, a million tEXt": lambda: png_of_text(b"tEXt", MILLION),
    "PNG, zTXt bombs": lambda: png_of_text(b"zTXt", 60, 1_000_000),
    "PNG, 300,000 zTXt": lambda: png_of_text(b"zTXt", 300_000, 200),
    "PNG, 300,000 iTXt": lambda: png_of_text(b"iTXt", 300_000, 200),
    "PNG, iCCP bombs": lambda: png_of_text(b"iCCP", 2000, 1_000_000),
    "PNG, a million IDAT": lambda: png_of_small_idats(MILLION),
    "PNG, 16-bit RGBA, 64 Mpx": lambda: png((8000, 8000), depth=16, color=6),
    "PNG, 16-bit RGBA, Paeth, 30 Mpx": lambda: png((6000, 5000), depth=16, color=6, filter=4),
    "PNG, RGBA, 64 Mpx": lambda: png((8000, 8000), color=6, filter=4),
    "PNG, interlaced, 64 Mpx": lambda: png((8000, 8000), color=2, interlace=1),
    "PNG, 16-bit grey, 64 Mpx": lambda: png((8000, 8000), depth=16, color=0),
    "PNG, 1-bit, 64 Mpx": lambda: png((8000, 8000), depth=1, color=0),
    "GIF, 3 million comments": lambda: gif_of_comments(3 * MILLION),
    "GIF, a comment of 10 million blocks": lambda: gif_of_comments(1, blocks=10 * MILLION),
    "GIF, blocks of a byte": lambda: gif_of_small_blocks(),
    "WebP, 38 bytes, 64 Mpx": webp_of_one_color,
    "WebP, 38 bytes, 24 Mpx": lambda: webp_of_one_color((6000, 4000)),
    "WebP, a million chunks": lambda: webp_of_chunks(MILLION),
    "BMP, 10 million runs": lambda: bmp_of_short_runs(10 * MILLION),
    "BMP, 64 Mpx of line ends": bmp_of_line_ends,
    "BMP, 5 million empty steps": lambda: bmp_of_empty_steps(5 * MILLION),
    "TIFF, a million rationals": lambda: tiff_of_rationals(MILLION),
    "TIFF, 25,000 entries": lambda: tiff_of_entries(25_000),
    "BigTIFF, a million entries": lambda: bigtiff_of_entries(MILLION),
    "TIFF, a million pages": lambda: tiff_of_pages(MILLION),
    "TIFF, 40,000 strips": lambda: tiff_of_strips(40_000),
    "TIFF, 40,000 deflated strips": lambda: tiff_of_strips(40_000, compression=8),
    "TIFF, 40,000 strips of 16 MB each": lambda: tiff_of_shared_strips(40_000, 16 * MILLION),
    "TIFF, a tile of 900 Mpx": tiff_of_huge_tiles,
    "TIFF, JPEG of 90 scans": lambda: tiff_of_jpeg(jpeg_of_scans(90, (4000, 4000)), (4000, 4000)),
}
"""Name → maker of the file, at the size that hurts."""
