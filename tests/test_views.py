"""Views: their URLs, sizes, costs, what they cover, and pixels that are exact and the same every time."""

from __future__ import annotations

import base64
import io
import json
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageStat

from tests.image_samples import BLUE, GREEN, RED, WHITE, encode, quarters, scene
from tests.test_regions import image_sizes, regions
from vtagent.errors import ImageError, ImageNotFound, ImageRefused, ImageTampered
from vtagent.images import ImageRef, MemoryImageStore
from vtagent.regions import Region
from vtagent.views import View, ViewRenderer, data_url, is_reference
from vtagent.visual_tokens import QWEN2_5_VL, QWEN3_VL, VisionSpec

TINY = VisionSpec(patch_size=4, merge_size=2, min_pixels=4 * 8**2, max_pixels=4096 * 8**2)
HEX = "ab" * 32
PHOTO = ImageRef(HEX, 4032, 3024, "image/jpeg")


def views(ref: ImageRef = PHOTO) -> st.SearchStrategy[View]:
    scales = st.integers(1, 10_000).map(lambda n: n / 10_000)
    return st.builds(View, st.just(ref), scales, st.none() | regions())


# ---- URLs and blocks -----------------------------------------------------------------------------------------------


def test_urls_are_short_and_canonical() -> None:
    assert View(PHOTO).url == f"vtimg://sha256/{HEX}"
    assert View(PHOTO, 0.5).url == f"vtimg://sha256/{HEX}?scale=0.5"
    assert View(PHOTO, 1, Region(1, 2, 3, 4)).url == f"vtimg://sha256/{HEX}?region=1,2,3,4"
    assert View(PHOTO, 0.25, Region(1, 2, 3, 4)).url == f"vtimg://sha256/{HEX}?region=1,2,3,4&scale=0.25"
    assert View(PHOTO, region=Region(0, 0, 1000, 1000)) == View(PHOTO)
    assert View(PHOTO, scale=1 / 3).url.endswith("?scale=0.3333")


@given(views())
def test_a_url_says_all_there_is_to_say(view: View) -> None:
    assert View.parse_url(view.url) == (HEX, view.scale, view.region)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://example.com/a.png",
        "file:///etc/passwd",
        "vtimg://sha256/../../etc/passwd",
        f"vtimg://sha256/{HEX.upper()}",
        f"vtimg://sha256/{HEX[:-1]}",
        f"vtimg://md5/{HEX}",
        f"vtimg://sha256/{HEX}/",
        f"vtimg://sha256/{HEX}?",
        f"vtimg://sha256/{HEX}\n",
        f"vtimg://sha256/{HEX}?scale=1",
        f"vtimg://sha256/{HEX}?scale=0.50",
        f"vtimg://sha256/{HEX}?scale=0.0",
        f"vtimg://sha256/{HEX}?scale=2",
        f"vtimg://sha256/{HEX}?scale=0.00001",
        f"vtimg://sha256/{HEX}?&scale=0.5",
        f"vtimg://sha256/{HEX}?region=1,2,3,4&",
        f"vtimg://sha256/{HEX}?region=1,2,3,4scale=0.5",
        f"vtimg://sha256/{HEX}?scale=0.5&region=1,2,3,4",
        f"vtimg://sha256/{HEX}?region=1,2,3",
        f"vtimg://sha256/{HEX}?region=01,2,3,4",
        f"vtimg://sha256/{HEX}?region=4,2,1,3",
        f"vtimg://sha256/{HEX}?region=0,0,1001,5",
        f"vtimg://sha256/{HEX}?region=0,0,1000,1000",
        f"vtimg://sha256/{HEX}?page=02",
    ],
)
def test_a_url_written_any_other_way_is_refused(url: str) -> None:
    with pytest.raises(ImageRefused, match="not an image reference") as error:
        View.parse_url(url)
    assert "\n" not in str(error.value)


@given(st.text() | st.text().map(lambda tail: f"vtimg://sha256/{HEX}?{tail}"))
def test_any_text_at_all_is_a_view_or_refused(url: str) -> None:
    try:
        sha256, scale, region = View.parse_url(url)
    except ImageRefused:
        return
    assert View(ImageRef(sha256, 9, 9, ""), scale, region).url == url


def test_a_block_is_small_json_and_leads_back_to_the_view() -> None:
    store = MemoryImageStore()
    view = View(store.put(encode(quarters((64, 48)))), 0.5, Region(0, 0, 500, 500))
    block = view.block()
    assert block == {
        "type": "image",
        "url": view.url,
        "mime_type": "image/png",
        "extras": {"width": 64, "height": 48},
    }
    assert len(json.dumps(block)) < 300
    assert is_reference(block)
    assert View.from_block(json.loads(json.dumps(block)), store) == view


def test_a_block_is_believed_only_about_its_url() -> None:
    store = MemoryImageStore()
    ref = store.put(encode(quarters((64, 48))))
    lie = {**View(ref).block(), "mime_type": "image/gif", "extras": {"width": 1, "height": 1}}
    assert View.from_block(lie, store).ref == ref
    with pytest.raises(ImageNotFound):
        View.from_block(View(PHOTO).block(), store)


@pytest.mark.parametrize(
    "block",
    [None, "text", {}, {"type": "text", "text": "vtimg:"}, {"type": "image", "url": "https://a/b"}, {"type": "image"}],
)
def test_other_blocks_are_no_references(block: Any) -> None:
    assert not is_reference(block)
    if isinstance(block, dict):
        with pytest.raises(ImageRefused):
            View.from_block(block, MemoryImageStore())


@pytest.mark.parametrize("scale", [0, -1, 1.5, 0.00001, float("nan"), float("inf")])
def test_a_scale_outside_0_to_1_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        View(PHOTO, scale)


# ---- sizes and cost ------------------------------------------------------------------------------------------------


def test_half_scale_costs_a_quarter() -> None:
    full, low = View(PHOTO), View(PHOTO, 0.5)
    assert full.size(QWEN2_5_VL) == (4032, 3024)
    assert low.size(QWEN2_5_VL) == (2016, 1512)
    assert low.tokens(QWEN2_5_VL) * 4 == full.tokens(QWEN2_5_VL) == 15552


def test_the_low_view_is_derived_from_the_snapped_image() -> None:
    huge = ImageRef(HEX, 8000, 8000, "image/jpeg")  # shrunk to 3584 x 3584 before it is halved
    assert View(huge).size(QWEN2_5_VL) == (3584, 3584)
    assert View(huge, 0.5).size(QWEN2_5_VL) == (1792, 1792)


@pytest.mark.parametrize("spec", [QWEN2_5_VL, QWEN3_VL, TINY])
@given(size=image_sizes, scale=st.floats(0.05, 1), region=st.none() | regions())
def test_the_processor_leaves_every_view_as_it_is(
    spec: VisionSpec, size: tuple[int, int], scale: float, region: Region | None
) -> None:
    fitted = region.fitted(*size, spec) if region else None
    view = View(ImageRef(HEX, *size, "image/png"), scale, fitted)
    assert spec.snap(*view.size(spec)) == view.size(spec)
    assert view.tokens(spec) == view.size(spec)[0] * view.size(spec)[1] // spec.factor**2


def test_a_view_covers_what_it_already_shows() -> None:
    full, low, left = View(PHOTO), View(PHOTO, 0.5), View(PHOTO, region=Region(0, 0, 500, 1000))
    corner = View(PHOTO, region=Region(0, 0, 200, 200))
    other = View(ImageRef("cd" * 32, 4032, 3024, "image/jpeg"))
    for spec in (None, QWEN2_5_VL):
        assert full.covers(full, spec)
        assert full.covers(low, spec)
        assert full.covers(left, spec)
        assert left.covers(corner, spec)
        assert not low.covers(full, spec)
        assert not low.covers(corner, spec)
        assert not left.covers(full, spec)
        assert not full.covers(other, spec)


def test_with_a_spec_covering_goes_by_the_pixels_really_shown() -> None:
    small = ImageRef(HEX, 200, 150, "image/png")  # below Qwen3-VL's least size, so half scale reduces nothing
    assert View(small, 0.5).covers(View(small), QWEN3_VL)
    huge = ImageRef(HEX, 8000, 8000, "image/jpeg")  # above its largest, so a region is finer than the full view
    assert not View(huge).covers(View(huge, region=Region(0, 0, 200, 200)), QWEN3_VL)


# ---- pixels --------------------------------------------------------------------------------------------------------


def rendering(data: bytes, spec: VisionSpec = TINY) -> tuple[ViewRenderer, ImageRef]:
    store = MemoryImageStore()
    ref = store.put(data)
    return ViewRenderer(store, spec), ref


def test_the_low_view_of_a_png_is_exactly_a_bicubic_resize() -> None:
    renderer, ref = rendering(encode(scene((320, 240))))
    view = View(ref, 0.5)
    assert view.size(TINY) == (160, 120)
    expected = scene((320, 240)).resize((160, 120), Image.Resampling.BICUBIC)
    assert renderer.render(view).tobytes() == expected.tobytes()


def test_the_full_view_of_an_image_on_the_grid_is_the_image() -> None:
    renderer, ref = rendering(encode(scene((320, 240))))
    assert renderer.render(View(ref)).tobytes() == scene((320, 240)).tobytes()


def test_a_region_is_cropped_from_the_original_then_resized() -> None:
    for format in ("PNG", "JPEG"):
        data = encode(scene((333, 251)), format)
        renderer, ref = rendering(data)
        view = View(ref, region=Region(100, 200, 700, 555))
        box = (33, 50, 234, 140)
        original = Image.open(io.BytesIO(data)).convert("RGB")
        expected = original.crop(box).resize(view.size(TINY), Image.Resampling.BICUBIC)
        assert renderer.render(view).tobytes() == expected.tobytes()


def test_the_low_view_of_a_jpeg_is_drafted_and_close_to_the_slow_way() -> None:
    data = encode(scene((1600, 1200)), "JPEG", quality=92)
    renderer, ref = rendering(data, QWEN2_5_VL)
    low = renderer.render(View(ref, 0.5))
    slow = Image.open(io.BytesIO(data)).convert("RGB").resize(low.size, Image.Resampling.BICUBIC)
    assert max(ImageStat.Stat(ImageChops.difference(low, slow)).rms) < 2.5  # 40 dB


def test_a_drafted_jpeg_is_corrected_in_bands_without_a_seam() -> None:
    data = encode(scene((2000, 1500)), "JPEG", quality=92)
    renderer, ref = rendering(data, QWEN2_5_VL)
    low = renderer.render(View(ref, 0.5))
    drafted = Image.open(io.BytesIO(data))
    drafted.draft("RGB", (1000, 750))
    assert drafted.size == (1000, 750) != low.size
    at_once = drafted.resize(low.size, Image.Resampling.BILINEAR)
    assert np.asarray(ImageChops.difference(low, at_once)).max() <= 2


def test_a_rotated_photo_is_upright_at_every_scale_and_region() -> None:
    exif = Image.Exif()
    exif[274] = 6
    stored = quarters((640, 480)).transpose(Image.Transpose.ROTATE_90)
    renderer, ref = rendering(encode(stored, "JPEG", quality=95, exif=exif))
    assert (ref.width, ref.height) == (640, 480)
    for scale in (1.0, 0.5, 0.25, 0.1):
        image = renderer.render(View(ref, scale))
        assert image.size == View(ref, scale).size(TINY)
        w, h = image.size
        spots = [(w // 4, h // 4), (3 * w // 4, h // 4), (w // 4, 3 * h // 4), (3 * w // 4, 3 * h // 4)]
        for spot, color in zip(spots, (RED, GREEN, BLUE, WHITE), strict=True):
            pixel = image.getpixel(spot)
            assert isinstance(pixel, tuple)
            assert all(abs(a - b) < 8 for a, b in zip(pixel, color, strict=True))
    region = renderer.render(View(ref, region=Region(600, 100, 900, 400)))
    assert region.getpixel((5, 5)) in [(0, 255, 0), (0, 254, 0), (0, 255, 1), (1, 255, 0)]


@settings(max_examples=60)
@given(
    size=st.tuples(st.integers(1, 120), st.integers(1, 120)),
    scale=st.floats(0.05, 1),
    region=st.none() | regions(),
    format=st.sampled_from(["PNG", "JPEG"]),
)
def test_every_view_renders_at_its_size_and_the_same_twice(
    size: tuple[int, int], scale: float, region: Region | None, format: str
) -> None:
    data = encode(quarters(size), format)
    renderer, ref = rendering(data)
    view = View(ref, scale, region.fitted(*size, TINY) if region else None)
    image = renderer.render(view)
    assert (image.mode, image.size) == ("RGB", view.size(TINY))
    again, _ = rendering(data)
    assert image.tobytes() == again.render(view).tobytes()


def test_an_image_of_one_pixel_and_a_thin_one_render() -> None:
    for size in ((1, 1), (600, 3), (3, 600)):
        renderer, ref = rendering(encode(quarters(size)), QWEN2_5_VL)
        assert renderer.render(View(ref, 0.5)).size == View(ref, 0.5).size(QWEN2_5_VL)


# ---- the cache -----------------------------------------------------------------------------------------------------


class CountingStore(MemoryImageStore):
    reads = 0

    def _read(self, sha256: str) -> bytes:
        self.reads += 1
        return super()._read(sha256)


def test_threads_asking_together_cause_one_rendering() -> None:
    store = CountingStore()
    ref = store.put(encode(scene((800, 600)), "JPEG"))
    renderer, results = ViewRenderer(store, TINY), []
    gate = threading.Barrier(12)

    def ask() -> None:
        gate.wait()
        results.append(renderer.render(View(ref, 0.5)).tobytes())

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.reads == 1
    assert len(results) == 12
    assert len(set(results)) == 1


def test_drawing_on_a_rendered_view_does_not_touch_the_next_one() -> None:
    renderer, ref = rendering(encode(scene((80, 64))))
    first = renderer.render(View(ref))
    before = first.tobytes()
    first.paste(RED, (0, 0, 80, 64))
    assert renderer.render(View(ref)).tobytes() == before


def test_the_cache_keeps_the_latest_views_within_its_bytes() -> None:
    store = CountingStore()
    refs = [store.put(encode(scene((80, 64 + 8 * n)))) for n in range(3)]
    renderer = ViewRenderer(store, TINY, cache_size=3 * 80 * (64 + 80))  # any two of the views, not three
    for ref in (refs[0], refs[1], refs[0], refs[2], refs[0]):
        renderer.render(View(ref))
    assert store.reads == 3
    renderer.render(View(refs[1]))
    assert store.reads == 4
    uncached = ViewRenderer(store, TINY, cache_size=0)
    uncached.render(View(refs[0]))
    uncached.render(View(refs[0]))
    assert store.reads == 6


def test_a_failed_rendering_is_not_remembered() -> None:
    store = MemoryImageStore()
    data = encode(scene((80, 64)))
    ref = store.put(data)
    renderer = ViewRenderer(store, TINY)
    store._data[ref.sha256] = data[:-1] + b"x"
    for _ in range(2):
        with pytest.raises(ImageTampered):
            renderer.render(View(ref))
    store._data[ref.sha256] = data
    assert renderer.render(View(ref)).size == (80, 64)
    with pytest.raises(ImageError):
        renderer.render(View(PHOTO))


def test_a_data_url_holds_the_exact_pixels() -> None:
    url = data_url(scene((40, 30)))
    head, _, body = url.partition(",")
    assert head == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(body))).tobytes() == scene((40, 30)).tobytes()
