"""Small files stay cheap: what an image costs is bounded before it is decoded, whatever the file says."""

from __future__ import annotations

import io
import json
import random
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests import costly_images as costly
from tests.image_samples import encode, quarters, scene, solid
from vtagent.decoder_process import TookTooMuch, decode_alone
from vtagent.errors import ImageError, ImageTooLarge, UnreadableImage
from vtagent.formats import strip
from vtagent.formats.exif import orientation
from vtagent.images import ImageLimits, MemoryImageStore, decode
from vtagent.pixels import inspect

LIMITS = ImageLimits()
ROOT = Path(__file__).parent.parent


def refused(data: bytes, limits: ImageLimits = LIMITS) -> str:
    with pytest.raises(ImageTooLarge) as error:
        MemoryImageStore(limits=limits).put(data)
    assert "\n" not in str(error.value)
    return str(error.value)


def accepted(data: bytes, limits: ImageLimits = LIMITS) -> Image.Image:
    store = MemoryImageStore(limits=limits)
    return store.pixels(store.put(data).sha256)


# ---- what hurts, at the size that hurts ----------------------------------------------------------------------------

MEASURE = """
import json, resource, sys, time
from tests.image_samples import encode, quarters
from vtagent.errors import ImageError
from vtagent.images import MemoryImageStore
from vtagent.views import View, ViewRenderer
from vtagent.visual_tokens import QWEN3_VL
data = sys.stdin.buffer.read()
store = MemoryImageStore()
renderer = ViewRenderer(store, QWEN3_VL)
for format in ("PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP"):
    renderer.render(View(store.put(encode(quarters(), format)), 0.5))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, start, why = peak(), time.process_time(), ""
try:
    renderer.render(View(store.put(data), 0.5))
except ImageError as error:
    why = f"{type(error).__name__}: {error}"
spent = resource.getrusage(resource.RUSAGE_CHILDREN)
seconds = time.process_time() - start + spent.ru_utime + spent.ru_stime
print(json.dumps({"seconds": seconds, "megabytes": peak() - before, "why": why}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux alone")
@pytest.mark.parametrize("name", costly.COSTLY)
def test_a_costly_file_takes_two_seconds_and_400_megabytes_or_is_refused(name: str) -> None:
    data = costly.COSTLY[name]()
    assert len(data) <= LIMITS.max_bytes, "refused for its size alone"
    command = [sys.executable, "-W", "ignore", "-c", MEASURE]
    done = subprocess.run(command, input=data, cwd=ROOT, capture_output=True, check=True, timeout=120)
    spent = json.loads(done.stdout)
    assert spent["seconds"] < 2 * 2, spent  # a machine under test has other work: as much again
    assert spent["megabytes"] < 400, spent
    assert done.stderr == b"", "a codec's own words reached the terminal"


# ---- each limit ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (costly.jpeg_of_comments, "segments"),
        (lambda n: costly.png_with(costly.png_chunk(b"abCd") * n), "chunks"),
        (lambda n: costly.png_with(costly.png_chunk(b"abCd") * n, behind=True), "chunks"),
        (costly.png_of_small_idats, "chunks"),
        (lambda n: costly.gif_of_comments(n // 2), "blocks"),
        (lambda n: costly.gif_of_comments(1, blocks=n), "blocks"),
        (costly.webp_of_chunks, "chunks"),
        (costly.tiff_of_entries, "tags"),
        (costly.bigtiff_of_entries, "tags"),
        (lambda n: costly.tiff(costly.grey((8, n), strips=n), bytes(8 * n)), "strips"),
    ],
)
def test_the_parts_of_a_file_are_counted(make: Callable[[int], bytes], part: str) -> None:
    few = ImageLimits(max_chunks=6000)
    assert part in refused(make(7000), few)
    if part not in ("tags", "strips"):
        accepted(make(1000), ImageLimits(max_chunks=6000))


@settings(max_examples=30)
@given(scans=st.integers(10, 60), most=st.integers(1, 4))
def test_the_samples_that_scans_cover_are_counted(scans: int, most: int) -> None:
    data = costly.jpeg_of_scans(scans, (64, 64))
    limits = ImageLimits(max_scans=most, max_pixels=64 * 64 * 4)
    covered = strip(data, LIMITS).scanned
    if covered > most * limits.max_pixels:
        assert "scans over 64x64" in refused(data, limits)
    else:
        assert accepted(data, limits).size == (64, 64)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_progressive_jpegs_as_encoders_write_them_are_read(subsampling: int) -> None:
    data = encode(scene((640, 480)), "JPEG", progressive=True, subsampling=subsampling)
    limits = ImageLimits(max_pixels=640 * 480 * 3 // 2)
    assert accepted(data, limits).tobytes() == Image.open(io.BytesIO(data)).tobytes()


def test_a_jpeg_of_very_many_scans_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vtagent.pixels._MANY_SAMPLES", 1000)
    data = encode(scene((640, 480)), "JPEG", progressive=True)
    store = MemoryImageStore()
    ref = store.put(data)
    whole = store.pixels(ref.sha256)
    assert store.pixels(ref.sha256, size_hint=(320, 240)) is whole


@pytest.mark.parametrize("format", ["PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_putting_and_showing_decode_once(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []

    def counted(data: bytes, **options: Any) -> Image.Image:
        loads.append(1)
        return decode(data, **options)

    monkeypatch.setattr("vtagent.store.decode", counted)
    store = MemoryImageStore()
    ref = store.put(encode(scene((320, 240)), format))
    store.pixels(ref.sha256, size_hint=(160, 120))
    store.pixels(ref.sha256)
    assert len(loads) == 1
    forgetful = MemoryImageStore(kept_pixels=0)
    forgetful.put(store.get(ref.sha256))
    forgetful.pixels(ref.sha256)
    assert len(loads) == 3


def test_decoded_bytes_are_bounded() -> None:
    data = costly.png((100, 100), depth=16, color=6)
    assert "decodes to 80100 bytes; at most 80000" in refused(data, ImageLimits(max_decoded_bytes=80_000))
    assert accepted(data, ImageLimits(max_decoded_bytes=80_100)).size == (100, 100)
    small = costly.tiff(costly.grey((100, 100), bits=16), bytes(20_000))
    assert "decodes to 20000 bytes" in refused(small, ImageLimits(max_decoded_bytes=19_999))


@pytest.mark.parametrize(
    ("data", "per_pixel"),
    [
        (encode(solid((100, 100))), 4),
        (encode(solid((100, 100), mode="L", color=7)), 5),
        (encode(solid((100, 100), (1, 2, 3, 4), "RGBA")), 8),
        (encode(solid((100, 100), 7, "I;16")), 6),
        (encode(solid((100, 100)), "WEBP"), 16),
        (encode(solid((96, 96)), "JPEG", progressive=True, subsampling=0), 10),
        (encode(solid((96, 96)), "JPEG", progressive=True, subsampling=2), 7),
    ],
)
def test_memory_is_estimated_from_the_header(data: bytes, per_pixel: int) -> None:
    _, width, height = inspect(data, limits=LIMITS)
    enough = per_pixel * width * height
    accepted(data, ImageLimits(max_memory=enough))
    assert "bytes to decode" in refused(data, ImageLimits(max_memory=enough - 1))


def test_metadata_of_any_size_is_left_out() -> None:
    exif = costly.exif_of_rationals(200_000)
    plain = encode(solid(), "JPEG")
    assert strip(costly.jpeg_with_exif(exif), LIMITS).data == strip(plain, LIMITS).data
    packed = zlib.compress(bytes(10**7), 9)
    for extra in (
        costly.png_chunk(b"zTXt", b"Raw profile type exif\0\0" + packed),
        costly.png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + packed),
        costly.png_chunk(b"iCCP", b"profile\0\0" + packed),
    ):
        assert strip(costly.png_with(extra), LIMITS).data == strip(encode(solid()), LIMITS).data


# ---- the decoder process -------------------------------------------------------------------------------------------


def test_a_run_length_bmp_is_decoded_in_a_process_of_its_own() -> None:
    runs = b"".join(bytes((32, row % 4 * 40, 32, 200, 0, 0)) for row in range(48)) + b"\0\1"
    data = costly.bmp_of_runs(runs, (64, 48))
    assert strip(data, LIMITS).alone
    assert accepted(data).tobytes() == Image.open(io.BytesIO(data)).convert("RGB").tobytes()


@pytest.mark.parametrize("compression", ["zstd", "lzma", "tiff_lzw", "packbits", "tiff_adobe_deflate", "jpeg", None])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK"])
def test_a_tiff_looks_the_same_whichever_process_decodes_it(compression: str | None, mode: str) -> None:
    if compression == "jpeg" and mode in ("P", "RGBA"):
        pytest.skip("libtiff writes no such JPEG")
    image = scene((70, 50)).convert(mode)
    data = encode(image, "TIFF", **({"compression": compression} if compression else {}))
    assert strip(data, LIMITS).alone == (compression in ("zstd", "lzma"))
    whole = Image.open(io.BytesIO(data))
    whole.load()
    expected = whole.convert("RGB") if mode != "RGBA" else decode(encode(whole), limits=LIMITS)
    assert accepted(data).tobytes() == expected.tobytes()


def test_the_decoder_process_is_ended_when_its_time_is_up() -> None:
    start = time.monotonic()
    data = costly.bmp_of_line_ends((6000, 6000))
    with pytest.raises(TookTooMuch, match=r"0\.5 seconds"):
        decode_alone(data, "BMP", seconds=0.5, memory=LIMITS.max_memory)
    assert "takes more than" in refused(data, ImageLimits(max_seconds=0.5))
    assert time.monotonic() - start < 20


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited on Linux alone")
def test_the_decoder_process_is_ended_when_its_memory_is_up() -> None:
    with pytest.raises(TookTooMuch, match="bytes"):
        decode_alone(costly.png((9000, 9000), color=6), "PNG", seconds=10, memory=2**26)


def test_the_decoder_process_says_what_is_wrong() -> None:
    with pytest.raises(UnreadableImage, match="BMP cannot be decoded"):
        MemoryImageStore().put(costly.bmp_of_runs(b"\x01\x07", (64, 48)))


# ---- never a wrong image -------------------------------------------------------------------------------------------


def test_a_twelve_bit_tiff_keeps_its_greys() -> None:
    greys = [0, 0x123, 0x800, 0xFFF]
    pairs = [(greys[n] << 12) | greys[n + 1] for n in (0, 2)]
    row = b"".join(pair.to_bytes(3, "big") for pair in pairs)
    image = accepted(costly.tiff(costly.grey((4, 4), bits=12), row * 4))
    assert [image.getpixel((x, 2)) for x in range(4)] == [(grey >> 4,) * 3 for grey in greys]


@given(greys=st.lists(st.integers(0, 65535), min_size=16, max_size=16), photometric=st.sampled_from([0, 1]))
def test_a_sixteen_bit_tiff_is_no_negative(greys: list[int], photometric: int) -> None:
    image = accepted(costly.tiff(costly.grey((4, 4), bits=16, photometric=photometric), struct.pack("<16H", *greys)))
    expected = [255 - (grey >> 8) if photometric == 0 else grey >> 8 for grey in greys]
    assert list(image.getchannel("G").tobytes()) == expected


@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_shallow_greys_are_no_negatives(bits: int, photometric: int) -> None:
    image = accepted(costly.tiff(costly.grey((8, 2), bits=bits, photometric=photometric), bytes(2 * bits)))
    assert image.getpixel((3, 1)) == ((255,) * 3 if photometric == 0 else (0,) * 3)


def test_signed_samples_are_refused() -> None:
    entries = [*costly.grey((8, 8)), (339, costly.SHORT, [2])]
    with pytest.raises(UnreadableImage, match="signed samples"):
        accepted(costly.tiff(entries, bytes(64)))


@pytest.mark.parametrize("coding", [0xC3, 0xC9, 0xCA])
def test_jpeg_codings_that_no_browser_reads_are_refused(coding: int) -> None:
    data = bytearray(encode(solid(), "JPEG"))
    data[data.find(b"\xff\xc0") + 1] = coding
    with pytest.raises(UnreadableImage, match="save it as a baseline JPEG"):
        accepted(bytes(data))


def test_what_libtiff_says_does_not_reach_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    data = bytearray(encode(Image.effect_noise((200, 150), 80), "TIFF", compression="tiff_lzw"))
    data[40:4000] = bytes(3960)
    with pytest.raises(UnreadableImage):
        accepted(bytes(data))
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


# ---- the orientation is read as Pillow reads it ---------------------------------------------------------------------


def by_pillow(exif: bytes) -> int:
    image = Image.open(io.BytesIO(encode(solid(), "JPEG")))
    image.info["exif"] = exif
    try:
        value = image.getexif().get(274, 1)
    except Exception:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's: as errors, they would hide what it found
@settings(max_examples=400)
@given(
    order=st.sampled_from(["<", ">"]),
    entries=st.lists(
        st.tuples(st.sampled_from([274, 256, 282]), st.integers(0, 14), st.integers(0, 3), st.integers(0, 2**32 - 1)),
        max_size=5,
    ),
    value=st.integers(0, 10),
)
def test_the_orientation_is_the_one_that_pillow_finds(
    order: str, entries: list[tuple[int, int, int, int]], value: int
) -> None:
    head = b"II*\0" if order == "<" else b"MM\0*"
    table = b"".join(
        struct.pack(order + "HHL", tag, kind, count)
        + (struct.pack(order + "HH", value, 0) if number % 2 else struct.pack(order + "L", number % 80))
        for tag, kind, count, number in entries
    )
    body = head + struct.pack(order + "L", 8) + struct.pack(order + "H", len(entries)) + table + bytes(20)
    assert orientation(body) == by_pillow(body)
    assert orientation(b"Exif\0\0" + body) == by_pillow(b"Exif\0\0" + body)


@pytest.mark.parametrize("value", range(1, 9))
def test_orientations_in_xmp_and_in_texts_count(value: int) -> None:
    packet = f'<x:xmpmeta><rdf:Description tiff:Orientation="{value}"/></x:xmpmeta>'.encode()
    exif = Image.Exif()
    exif[274] = value
    hexed = b"\nexif\n   26\n" + exif.tobytes().hex().encode() + b"\n"
    upright, sideways = (64, 48), (48, 64)
    expected = sideways if value >= 5 else upright
    for extra in (
        costly.png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet),
        costly.png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(packet)),
        costly.png_chunk(b"tEXt", b"Raw profile type exif\0" + hexed),
        costly.png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(hexed)),
    ):
        for behind in (False, True):
            assert inspect(costly.png_with(extra, behind=behind), limits=LIMITS)[1:] == expected
    jpeg = encode(solid(), "JPEG")
    xmp = costly.segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + packet)
    assert inspect(jpeg[:2] + xmp + jpeg[2:], limits=LIMITS)[1:] == expected
    page = costly.tiff([*costly.grey((64, 48)), (700, 1, list(packet))], bytes(64 * 48))
    assert inspect(page, limits=LIMITS)[1:] == decode(page, limits=LIMITS).size == expected


# ---- mutated files -------------------------------------------------------------------------------------------------

SEEDS = {
    "JPEG": encode(quarters((48, 40)), "JPEG"),
    "JPEG, progressive": encode(quarters((48, 40)), "JPEG", progressive=True),
    "JPEG, EXIF": costly.jpeg_with_exif(costly.exif_of_rationals(3, 274)),
    "PNG": encode(quarters((48, 40))),
    "PNG, interlaced": costly.png((40, 30), interlace=1),
    "PNG, 16-bit": costly.png((40, 30), depth=16, color=6),
    "GIF": encode(quarters((48, 40)), "GIF"),
    "WebP": encode(quarters((48, 40)), "WEBP"),
    "WebP, lossless": encode(solid((48, 40), (1, 2, 3, 4), "RGBA"), "WEBP", lossless=True, exif=b"Exif\0\0II*\0"),
    "BMP": encode(quarters((48, 40)), "BMP"),
    "TIFF": encode(quarters((48, 40)), "TIFF"),
    "TIFF, LZW": encode(quarters((48, 40)), "TIFF", compression="tiff_lzw"),
    "TIFF, JPEG": encode(quarters((48, 40)), "TIFF", compression="jpeg"),
    "BigTIFF": costly.bigtiff_of_entries(0),
}


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32))
@pytest.mark.parametrize("name", SEEDS)
@pytest.mark.filterwarnings("ignore")  # codecs grumble about broken files in their own ways
def test_mutated_headers_give_an_image_or_an_image_error(name: str, seed: int) -> None:
    rng = random.Random(seed)
    data = bytearray(SEEDS[name])
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(min(len(data), 700))
        match rng.randrange(4):
            case 0:
                data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF, rng.randrange(256)))
            case 1:
                data[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", bytes(4), rng.randbytes(4)))
            case 2:
                del data[at : at + rng.randint(1, 8)]
            case 3:
                data[at:at] = data[at : at + rng.randint(1, 40)]
    start = time.monotonic()
    try:
        ref = MemoryImageStore().put(bytes(data))
    except ImageError as error:
        refusal = str(error)
        assert "\n" not in refusal
    else:
        assert decode(bytes(data), limits=LIMITS).size == (ref.width, ref.height)
    assert time.monotonic() - start < 20
