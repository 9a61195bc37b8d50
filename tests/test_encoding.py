"""What is sent to a server: exact pixels where they count, few bytes where they do not, and each view encoded once."""

from __future__ import annotations

import io
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageDraw, ImageStat

from tests.image_samples import encode as file
from tests.image_samples import quarters, scene, solid
from vtagent import encoding
from vtagent.encoding import LOSSLESS, LOSSY, EncodedImage, Encoding, encode
from vtagent.errors import ImageTooLarge
from vtagent.images import ImageRef, MemoryImageStore
from vtagent.regions import Region
from vtagent.views import View, ViewRenderer, data_url
from vtagent.visual_tokens import VisionSpec

TINY = VisionSpec(patch_size=4, merge_size=2, min_pixels=4 * 8**2, max_pixels=40_000 * 8**2)


def photo(size: tuple[int, int]) -> Image.Image:
    return ImageChops.add(scene(size), Image.effect_noise(size, 12).convert("RGB"), 1, -128)


def drawing(size: tuple[int, int]) -> Image.Image:
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for at in range(0, size[0], 40):
        draw.line((at, 0, size[0] - at, size[1]), "black", 2)
        draw.text((at, at % size[1]), "Total 12.50", "navy")
    return image


def seen(encoded: EncodedImage) -> Image.Image:
    image = Image.open(io.BytesIO(encoded.data))
    assert Image.MIME[str(image.format)] == encoded.mime_type
    return image.convert("RGB")


def rendering(data: bytes) -> tuple[ViewRenderer, ImageRef]:
    store = MemoryImageStore()
    return ViewRenderer(store, TINY), store.put(data)


def test_exact_pixels_are_the_default() -> None:
    for image in (photo((300, 200)), drawing((300, 200)), quarters()):
        assert seen(encode(image)).tobytes() == image.tobytes()
        assert data_url(image).startswith("data:image/png;base64,")


def test_photographs_leave_as_jpeg_and_line_art_as_png() -> None:
    assert encode(photo((800, 600)), LOSSY).mime_type == "image/jpeg"
    art = encode(drawing((800, 600)), LOSSY)
    assert art.mime_type == "image/png"
    assert seen(art).tobytes() == drawing((800, 600)).tobytes()
    assert data_url(photo((800, 600)), LOSSY).startswith("data:image/jpeg;base64,")


def test_the_smaller_of_both_is_sent() -> None:
    for image in (photo((640, 480)), drawing((640, 480)), scene((640, 480)), solid((640, 480))):
        png, jpeg = len(encoding._png(image, level=6)), len(encoding._jpeg(image, LOSSY.quality))
        assert len(encode(image, LOSSY).data) == min(png, jpeg)


def test_a_jpeg_looks_like_the_pixels() -> None:
    image = scene((800, 600))
    difference = ImageStat.Stat(ImageChops.difference(seen(encode(photo((800, 600)), LOSSY)), photo((800, 600))))
    assert max(ImageStat.Stat(ImageChops.difference(seen(encode(image, LOSSY)), image)).rms) < 3
    assert max(difference.rms) < 30  # the noise differs from call to call


@settings(max_examples=25)
@given(most=st.integers(2_000, 200_000))
def test_the_bytes_of_the_receiver_are_kept(most: int) -> None:
    image = NOISE
    for how in (Encoding(max_bytes=most), Encoding(lossy=True, max_bytes=most)):
        try:
            assert len(encode(image, how).data) <= most
        except ImageTooLarge as error:
            assert f"at most {most}" in str(error)  # noqa: PT017
            smallest = encoding._jpeg(image, 10) if how.lossy else encoding._png(image, level=1)
            assert len(smallest) > most


NOISE = photo((320, 240))


def test_a_whole_view_of_the_originals_size_is_the_original_without_its_metadata() -> None:
    exif = Image.Exif()
    exif[271] = "somebody's camera"
    for format, options in (("JPEG", {"quality": 60}), ("PNG", {"optimize": True})):
        image = photo((320, 240)) if format == "JPEG" else drawing((320, 240)).quantize(8)
        data = file(image, format, exif=exif, **options)
        assert b"somebody" in data
        renderer, ref = rendering(data)
        sent = renderer.encode(View(ref), LOSSY)
        assert len(sent.data) <= len(data)
        assert b"somebody" not in sent.data
        assert seen(sent).tobytes() == Image.open(io.BytesIO(data)).convert("RGB").tobytes()


def difference(one: Image.Image, other: Image.Image) -> float:
    """The root mean square difference, in grey levels, of the channel that differs most."""
    return float(max(ImageStat.Stat(ImageChops.difference(one, other)).rms))


@settings(max_examples=20)
@given(
    format=st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF"]),
    mode=st.sampled_from(["RGB", "L", "P", "RGBA", "I;16", "CMYK"]),
    turn=st.sampled_from([1, 3, 6]),
    lossy=st.booleans(),
)
def test_the_original_is_sent_only_if_every_reader_shows_it_as_it_is_rendered(
    format: str, mode: str, turn: int, lossy: bool
) -> None:
    image = scene((160, 160))
    if mode == "RGBA":
        image.putalpha(Image.linear_gradient("L").resize((160, 160)))
    elif mode == "I;16":
        image = Image.new("I;16", (160, 160), 0x4000)
    else:
        image = image.convert(mode)
    exif = Image.Exif()
    exif[274] = turn
    try:
        data = file(image, format, exif=exif)
    except (OSError, KeyError):
        return  # the format has no such mode
    renderer, ref = rendering(data)
    pixels = renderer.render(View(ref))
    sent = seen(renderer.encode(View(ref), Encoding(lossy=lossy, quality=95)))
    assert sent.size == pixels.size
    if not lossy:
        assert difference(sent, pixels) == 0
        return
    # To be no larger than a small original, the quality may go down to its floor, and no further.
    floor = difference(seen(encode(pixels, Encoding(lossy=True, quality=75))), pixels)
    assert difference(sent, pixels) < max(4, floor + 0.01)


def test_no_second_image_behind_a_phones_photo_is_sent() -> None:
    data = file(photo((320, 240)), "MPO", save_all=True, append_images=[photo((320, 240))], quality=60)
    renderer, ref = rendering(data)
    assert len(renderer.encode(View(ref), LOSSY).data) < 0.6 * len(data)


def test_a_resized_whole_view_is_no_larger_than_the_file_as_far_as_quality_allows() -> None:
    data = file(photo((404, 300)), "JPEG", quality=78, subsampling=0)
    renderer, ref = rendering(data)
    view = View(ref)
    assert view.size(TINY) != (404, 300)
    assert len(renderer.encode(view, LOSSY).data) <= len(data)


def test_a_view_is_encoded_once_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    renderer, ref = rendering(file(photo((320, 240)), "JPEG"))
    calls: list[object] = []

    def counted(*arguments: Any, **options: Any) -> EncodedImage:
        calls.append(arguments)
        return encode(*arguments, **options)

    monkeypatch.setattr("vtagent.views.encode", counted)
    view = View(ref, region=Region(0, 0, 500, 500))
    results: list[EncodedImage] = []
    threads = [threading.Thread(target=lambda: results.append(renderer.encode(view, LOSSY))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len({id(result) for result in results}) == 1
    renderer.encode(view, LOSSLESS)
    renderer.encode(view, Encoding(lossy=True, quality=80))
    assert len(calls) == 3
    forgetful = ViewRenderer(renderer.store, TINY, encoded_size=0)
    forgetful.encode(view, LOSSY)
    forgetful.encode(view, LOSSY)
    assert len(calls) == 5


def test_encoding_leaves_the_rendered_view_alone() -> None:
    renderer, ref = rendering(file(photo((320, 240)), "JPEG"))
    before = renderer.render(View(ref)).tobytes()
    renderer.encode(View(ref), LOSSY)
    assert renderer.render(View(ref)).tobytes() == before
