"""The store and the decoder: a bad file gives one clear error, a good one the right colours, upright."""

from __future__ import annotations

import hashlib
import os
import random
import struct
import threading
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.image_samples import BLUE, GREEN, RED, WHITE, encode, quarters, scene, solid
from vtagent.errors import (
    ImageError,
    ImageNotFound,
    ImageRefused,
    ImageTampered,
    ImageTooLarge,
    UnreadableImage,
)
from vtagent.images import DirectoryImageStore, ImageLimits, ImageRef, ImageStore, MemoryImageStore, decode

LIMITS = ImageLimits()
FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]


@pytest.fixture(params=["memory", "directory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ImageStore:
    return MemoryImageStore() if request.param == "memory" else DirectoryImageStore(tmp_path / "images")


def corners(image: Image.Image) -> list[tuple[int, ...]]:
    """Colours near the four corners: top left, top right, bottom left, bottom right."""
    w, h = image.size
    spots = [(w // 4, h // 4), (3 * w // 4, h // 4), (w // 4, 3 * h // 4), (3 * w // 4, 3 * h // 4)]
    return [image.getpixel(spot) for spot in spots]  # type: ignore[misc]


def near(got: Sequence[tuple[int, ...]], expected: Sequence[tuple[int, ...]], tolerance: int = 6) -> bool:
    return all(abs(a - b) <= tolerance for x, y in zip(got, expected, strict=True) for a, b in zip(x, y, strict=True))


# ---- keeping and finding -------------------------------------------------------------------------------------------


def test_an_image_is_named_by_its_bytes_and_comes_back_unchanged(store: ImageStore) -> None:
    data = encode(quarters((64, 48)))
    ref = store.put(data)
    assert ref == ImageRef(hashlib.sha256(data).hexdigest(), 64, 48, "image/png")
    assert ref.url == f"vtimg://sha256/{ref.sha256}"
    assert ref.sha256 in store
    assert store.get(ref.sha256) == data
    assert store.ref(ref.sha256) == ref
    assert store.put(data) == ref


def test_another_process_finds_the_image_with_the_same_facts(tmp_path: Path) -> None:
    for format in FORMATS:
        ref = DirectoryImageStore(tmp_path).put(encode(quarters((60, 40)), format))
        assert DirectoryImageStore(tmp_path).ref(ref.sha256) == ref
        assert ref.mime_type == f"image/{format.lower()}"
    assert not list(tmp_path.rglob(".part-*"))


def test_an_unknown_id_is_not_found(store: ImageStore) -> None:
    assert "0" * 64 not in store
    for ask in (store.get, store.ref):
        with pytest.raises(ImageNotFound, match="not in this store"):
            ask("0" * 64)


@pytest.mark.parametrize(
    "sha256", ["../../etc/passwd", "/etc/passwd", "ab", "", "A" * 64, "0" * 63 + "\n", "0" * 65, "..", "٠" * 64]
)
def test_ids_that_are_not_hashes_are_refused_before_anything_is_opened(store: ImageStore, sha256: str) -> None:
    assert sha256 not in store
    for ask in (store.get, store.ref):
        with pytest.raises(ImageRefused, match="not an image id"):
            ask(sha256)
    with pytest.raises(ImageRefused):
        ImageRef(sha256, 1, 1, "image/png")


def test_a_tampered_file_is_refused_by_name(tmp_path: Path) -> None:
    store = DirectoryImageStore(tmp_path)
    data = encode(quarters())
    ref = store.put(data)
    file = tmp_path / ref.sha256[:2] / ref.sha256
    file.write_bytes(encode(solid(color=BLUE)))
    with pytest.raises(ImageTampered, match=ref.sha256):
        store.get(ref.sha256)
    with pytest.raises(ImageTampered, match=ref.sha256):
        store.put(data)
    with pytest.raises(ImageTampered, match=ref.sha256):
        DirectoryImageStore(tmp_path).ref(ref.sha256)
    file.unlink()
    assert store.put(data) == ref


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_in_the_place_of_an_image_does_not_hang_the_reader(tmp_path: Path) -> None:
    store = DirectoryImageStore(tmp_path)
    ref = store.put(encode(quarters()))
    file = tmp_path / ref.sha256[:2] / ref.sha256
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(UnreadableImage, match="plain file"):
        store.get(ref.sha256)
    with pytest.raises(UnreadableImage, match="plain file"):
        store.put_file(file)


def test_files_named_by_the_caller_are_read_with_the_same_limits(store: ImageStore, tmp_path: Path) -> None:
    file = tmp_path / "page.png"
    file.write_bytes(encode(quarters()))
    assert store.put_file(file) == store.put_file(str(file)) == store.put(file.read_bytes())
    with pytest.raises(ImageNotFound, match=r"missing\.png"):
        store.put_file(tmp_path / "missing.png")
    with pytest.raises(ImageNotFound, match="https:… is not fetched: save the image to a file"):
        store.put_file("https://example.org/page.png")
    with pytest.raises(UnreadableImage, match="plain file"):
        store.put_file(tmp_path)


def test_many_threads_may_put_the_same_image(tmp_path: Path) -> None:
    store, data, refs = DirectoryImageStore(tmp_path), encode(quarters()), []
    threads = [threading.Thread(target=lambda: refs.append(store.put(data))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refs) == 16
    assert len(set(refs)) == 1
    assert not list(tmp_path.rglob(".part-*"))


# ---- bad files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("keep", [0.05, 0.5, 0.9])
def test_truncated_files_are_refused(store: ImageStore, format: str, keep: float) -> None:
    noisy = Image.effect_noise((200, 150), 80).convert("RGB")
    data = encode(noisy, format)
    with pytest.raises(UnreadableImage) as error:
        store.put(data[: int(len(data) * keep)])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b"hello, I am no image", "not a complete image"),
        (b"%PDF-1.7 ...", "PDF: put it into the store with store.documents.put"),
        (b"\0\0\0\x18ftypheic" + bytes(100), "HEIC"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "expected JPEG, PNG"),
        (b"\x89PNG\r\n\x1a\n", "image"),
        (b"\xff\xd8\xff", "image"),
    ],
)
def test_what_is_no_image_is_refused_with_a_reason(store: ImageStore, data: bytes, why: str) -> None:
    with pytest.raises(UnreadableImage, match=why):
        store.put(data)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animations_and_many_paged_files_are_refused(store: ImageStore, format: str) -> None:
    data = encode(solid(color=RED), format, save_all=True, append_images=[solid(color=BLUE), solid(color=GREEN)])
    with pytest.raises(UnreadableImage, match="more than one frame or page"):
        store.put(data)


def test_an_animation_may_be_cut_anywhere(store: ImageStore) -> None:
    data = encode(solid(color=RED), "GIF", save_all=True, append_images=[solid(color=BLUE), solid(color=GREEN)])
    for end in range(len(data)):
        with suppress(UnreadableImage):  # and no other error; cut between two frames it is one still image
            store.put(data[:end])


def test_a_phone_photo_with_a_second_image_behind_it_counts_as_a_jpeg(store: ImageStore) -> None:
    data = encode(quarters((64, 48)), "MPO", save_all=True, append_images=[solid((64, 48), BLUE)])
    ref = store.put(data)
    assert (ref.mime_type, ref.width, ref.height) == ("image/jpeg", 64, 48)
    assert near(corners(decode(data, limits=LIMITS)), [RED, GREEN, BLUE, WHITE], 30)


def test_formats_outside_the_list_are_refused(store: ImageStore) -> None:
    for format in ("PPM", "ICO", "TGA", "EPS"):
        with pytest.raises(UnreadableImage, match="expected JPEG"):
            store.put(encode(quarters(), format))
    with pytest.raises(UnreadableImage, match="expected PNG"):
        MemoryImageStore(limits=ImageLimits(formats=("PNG",))).put(encode(quarters(), "JPEG"))


def png_header(width: int, height: int) -> bytes:
    """A PNG whose header claims a size, with almost no data."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(8001, 8000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_decompression_bombs_are_refused_from_their_header(
    store: ImageStore, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded before the limits were checked"))
    with pytest.raises(ImageTooLarge, match="pixels"):
        store.put(png_header(*size))


def test_a_real_bomb_of_a_few_kilobytes_is_refused(store: ImageStore) -> None:
    data = encode(Image.new("1", (9000, 8000)))
    assert len(data) < 20_000
    with pytest.raises(ImageTooLarge, match="9000x8000"):
        store.put(data)


def test_limits_can_be_set() -> None:
    small = MemoryImageStore(limits=ImageLimits(max_pixels=1000, max_bytes=10_000))
    with pytest.raises(ImageTooLarge, match="64x48 pixels; at most 1000"):
        small.put(encode(quarters((64, 48))))
    with pytest.raises(ImageTooLarge, match="at most 10000"):
        small.put(bytes(10_001))
    MemoryImageStore(limits=ImageLimits(max_pixels=80_000_000)).put(encode(Image.new("1", (9000, 8000))))


def test_one_pixel_is_fine_and_a_hair_is_refused(store: ImageStore) -> None:
    assert store.put(encode(solid((1, 1)))).width == 1
    with pytest.raises(ImageTooLarge, match="20000x3: one side may be at most 200x"):
        store.put(encode(solid((20_000, 3))))
    assert store.put(encode(solid((600, 3)))).height == 3


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(format=st.sampled_from(FORMATS), seed=st.integers(0, 2**32))
@pytest.mark.filterwarnings("ignore")  # codecs grumble about broken files in their own ways
def test_flipped_bytes_give_an_image_or_an_image_error(format: str, seed: int) -> None:
    rng = random.Random(seed)
    data = bytearray(encode(quarters((32, 24)), format))
    for _ in range(rng.randint(1, 20)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    try:
        ref = MemoryImageStore().put(bytes(data))
    except ImageError as error:
        refusal = str(error)
        assert "\n" not in refusal
    else:
        assert decode(bytes(data), limits=LIMITS).size == (ref.width, ref.height)


# ---- colours and turns ---------------------------------------------------------------------------------------------

EXPECTED = [RED, GREEN, BLUE, WHITE]


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """The image as a camera stores it under an EXIF orientation: undoing the orientation gives `image`."""
    undo = {
        1: [],
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],  # stored turned left, so that it is shown turned right
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    for step in undo[orientation]:
        image = image.transpose(step)
    return image


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_rotation_is_applied(store: ImageStore, format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    options = {"quality": 95} if format in ("JPEG", "WEBP") else {}
    data = encode(turned(quarters((320, 240)), orientation), format, exif=exif, **options)
    ref = store.put(data)
    assert (ref.width, ref.height) == (320, 240)
    upright = decode(data, limits=LIMITS)
    assert upright.size == (320, 240)
    assert near(corners(upright), EXPECTED)
    if format == "JPEG":
        reduced = decode(data, limits=LIMITS, size_hint=(160, 120))
        assert reduced.size == (160, 120)
        assert near(corners(reduced), EXPECTED)


def test_a_fresh_store_knows_the_upright_size_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    for format in ("JPEG", "PNG", "WEBP", "TIFF"):
        ref = DirectoryImageStore(tmp_path).put(encode(turned(quarters((80, 40)), 6), format, exif=exif))
        assert DirectoryImageStore(tmp_path).ref(ref.sha256) == ref
        assert (ref.width, ref.height) == (80, 40)


def test_broken_exif_counts_as_upright() -> None:
    data = encode(quarters(), "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01garbage")
    assert near(corners(decode(data, limits=LIMITS)), EXPECTED)


def test_transparency_is_laid_on_white() -> None:
    clear = solid((8, 8), (255, 0, 0, 0), "RGBA")
    half = solid((8, 8), (255, 0, 0, 128), "RGBA")
    for format in ("PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if format == "WEBP" else {}
        assert decode(encode(clear, format, **options), limits=LIMITS).getpixel((4, 4)) == WHITE
        assert decode(encode(half, format, **options), limits=LIMITS).getpixel((4, 4)) == (255, 127, 127)
    grey = solid((8, 8), (0, 128), "LA")
    assert decode(encode(grey), limits=LIMITS).getpixel((4, 4)) == (127, 127, 127)


def test_palettes_are_looked_up_and_their_transparent_entry_is_white() -> None:
    image = quarters().convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    for format in ("PNG", "GIF", "BMP", "TIFF"):
        assert near(corners(decode(encode(image, format), limits=LIMITS)), EXPECTED, 0)
    blue = image.getpixel((16, 36))
    for format in ("PNG", "GIF"):
        got = corners(decode(encode(image, format, transparency=blue), limits=LIMITS))
        assert near(got, [RED, GREEN, WHITE, WHITE], 0)


def test_cmyk_is_converted() -> None:
    inks = {
        (255, 0, 0, 0): (0, 255, 255),
        (0, 255, 0, 0): (255, 0, 255),
        (0, 0, 0, 255): (0, 0, 0),
        (0, 0, 0, 0): WHITE,
    }
    for ink, color in inks.items():
        image = solid((16, 16), ink, "CMYK")
        for data in (encode(image, "TIFF"), encode(image, "JPEG", quality=95)):
            assert near([decode(data, limits=LIMITS).getpixel((8, 8))], [color])  # type: ignore[list-item]


def test_sixteen_bit_greys_keep_their_high_byte() -> None:
    for value in (0, 255, 256, 0x1234, 0x8000, 0xFFFF):
        image = solid((4, 4), value, "I;16")
        for format in ("PNG", "TIFF"):
            assert decode(encode(image, format), limits=LIMITS).getpixel((2, 2)) == (value >> 8,) * 3
    ramp = Image.new("I;16B", (4, 4), 0x4000)
    assert decode(encode(ramp, "TIFF"), limits=LIMITS).getpixel((0, 0)) == (0x40,) * 3


def png16(color_type: int, pixel: bytes, trns: bytes = b"") -> bytes:
    """A 1x1 PNG with 16 bits a sample, which Pillow cannot write itself."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, color_type, 0, 0, 0))]
    parts += [chunk(b"tRNS", trns)] if trns else []
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IDAT", zlib.compress(b"\0" + pixel)), chunk(b"IEND", b"")])


def test_sixteen_bit_colour_and_transparency() -> None:
    def look(data: bytes) -> object:
        return decode(data, limits=LIMITS).getpixel((0, 0))

    rgb = struct.pack(">HHH", 0xFFFF, 0x8000, 0x0000)
    assert look(png16(2, rgb)) == (255, 128, 0)
    assert look(png16(6, rgb + struct.pack(">H", 0))) == WHITE
    assert look(png16(2, rgb, trns=rgb)) == WHITE
    assert look(png16(2, rgb, trns=struct.pack(">HHH", 1, 2, 3))) == (255, 128, 0)
    assert look(png16(0, struct.pack(">H", 0x4000), trns=struct.pack(">H", 0x4000))) == WHITE
    assert look(png16(0, struct.pack(">H", 0x4000), trns=struct.pack(">H", 0x4001))) == (0x40,) * 3
    assert look(png16(4, struct.pack(">HH", 0x4000, 0xFFFF))) == (0x40,) * 3


def test_black_and_white_and_grey() -> None:
    assert decode(encode(solid((4, 4), 1, "1")), limits=LIMITS).getpixel((0, 0)) == WHITE
    assert decode(encode(solid((4, 4), 77, "L")), limits=LIMITS).getpixel((0, 0)) == (77, 77, 77)


@pytest.mark.parametrize(("mode", "color"), [("F", 0.5), ("I", 70_000)])
def test_samples_of_unknown_range_are_refused(store: ImageStore, mode: str, color: float) -> None:
    with pytest.raises(UnreadableImage, match="32-bit samples"):
        store.put(encode(solid((8, 8), color, mode), "TIFF"))


def test_a_size_hint_reduces_jpegs_to_the_smallest_size_that_still_serves() -> None:
    data = encode(scene((800, 600)), "JPEG")
    for hint, size in [
        ((800, 600), (800, 600)),
        ((401, 300), (800, 600)),
        ((400, 300), (400, 300)),
        ((1, 1), (100, 75)),
    ]:
        assert decode(data, limits=LIMITS, size_hint=hint).size == size
    assert decode(encode(scene((80, 60))), limits=LIMITS, size_hint=(1, 1)).size == (80, 60)
