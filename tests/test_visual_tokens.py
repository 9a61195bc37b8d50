"""Token accounting equals the processors' own: the grid they return, and the resize they would do."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtagent.errors import ImageTooLarge
from vtagent.visual_tokens import QWEN2_5_VL, QWEN3_VL, VisionSpec

SMALL = VisionSpec(patch_size=8, merge_size=2, min_pixels=4 * 16**2, max_pixels=1024 * 16**2)
SPECS = pytest.mark.parametrize("spec", [QWEN2_5_VL, QWEN3_VL, SMALL], ids=["qwen2.5-vl", "qwen3-vl", "small"])

# Thin, tiny, square and page-like; the processors really run on these, so the largest is kept near one megapixel.
EXTREMES = [(1, 1), (1, 200), (200, 1), (3, 600), (600, 3), (15, 3000), (41, 8200), (8200, 41), (13, 14), (14, 13)]
EXTREMES += [(27, 28), (28, 28), (42, 42), (70, 70), (98, 4), (255, 257), (1280, 720), (1000, 1000), (1024, 1024)]


def sizes(count: int) -> list[tuple[int, int]]:
    """Sizes of at most about 300,000 pixels, spread evenly over orders of magnitude."""
    rng = random.Random(7)
    found = list(EXTREMES)
    while len(found) < count:
        width, height = (int(10 ** rng.uniform(0, 3.5)) for _ in range(2))
        if width * height <= 300_000 and max(width, height) <= 200 * min(width, height):
            found.append((width, height))
    return found


def processor(spec: VisionSpec):  # type: ignore[no-untyped-def]
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    size = {"shortest_edge": spec.min_pixels, "longest_edge": spec.max_pixels}
    # Neither rescaling nor normalising touches the grid; leaving them out is what makes hundreds of sizes quick.
    return Qwen2VLImageProcessorPil(
        patch_size=spec.patch_size, merge_size=spec.merge_size, size=size, do_rescale=False, do_normalize=False
    )


@SPECS
def test_grid_is_the_one_the_processor_returns_for_hundreds_of_sizes(spec: VisionSpec) -> None:
    from PIL import Image

    run = processor(spec)
    for width, height in sizes(250):
        grid = run(images=[Image.new("RGB", (width, height))], return_tensors="np")["image_grid_thw"][0]
        assert spec.grid(width, height) == tuple(grid), (width, height)
        assert spec.tokens(width, height) == grid.prod() // spec.merge_size**2, (width, height)


@SPECS
def test_the_processor_leaves_a_fitted_size_alone(spec: VisionSpec) -> None:
    from PIL import Image

    run = processor(spec)
    for width, height in sizes(60):
        w, h = spec.fit(width, height)
        grid = run(images=[Image.new("RGB", (w, h))], return_tensors="np")["image_grid_thw"][0]
        assert (grid[2] * spec.patch_size, grid[1] * spec.patch_size) == (w, h), (width, height)


@SPECS
@settings(max_examples=400)
@given(width=st.integers(1, 20_000), height=st.integers(1, 20_000))
def test_snap_is_the_resize_of_the_processor_up_to_400_megapixels(spec: VisionSpec, width: int, height: int) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    limits = {"factor": spec.factor, "min_pixels": spec.min_pixels, "max_pixels": spec.max_pixels}
    try:
        expected = smart_resize(height, width, **limits)
    except ValueError:
        with pytest.raises(ImageTooLarge, match="too thin"):
            spec.snap(width, height)
    else:
        assert spec.snap(width, height) == expected[::-1]


@SPECS
@settings(max_examples=400)
@given(short=st.integers(1, 400), ratio=st.floats(1, 200))
def test_fit_is_stable_and_equal_to_snap_wherever_snap_is_stable(spec: VisionSpec, short: int, ratio: float) -> None:
    long = int(short * ratio)
    fitted = spec.fit(long, short)
    assert spec.snap(*fitted) == fitted == spec.fit(*fitted)
    snapped = spec.snap(long, short)
    if max(snapped) <= spec.max_aspect * min(snapped) and spec.snap(*snapped) == snapped:
        assert fitted == snapped


def test_a_thin_image_whose_snapped_size_the_processor_would_refuse_is_shortened() -> None:
    assert QWEN2_5_VL.snap(8200, 41) == (8204, 28)  # 293 to 1
    assert QWEN2_5_VL.fit(8200, 41) == (5600, 28)


def test_known_sizes() -> None:
    assert QWEN2_5_VL.snap(4032, 3024) == (4032, 3024)
    assert QWEN2_5_VL.tokens(4032, 3024) == 15552
    assert QWEN3_VL.grid(1920, 1080) == (1, 68, 120)
    assert QWEN3_VL.tokens(1, 1) == 64


@pytest.mark.parametrize("bad", [{"patch_size": 0}, {"merge_size": 0}, {"min_pixels": 0}, {"max_pixels": 100}])
def test_a_spec_that_contradicts_itself_is_refused(bad: dict[str, int]) -> None:
    good = {"patch_size": 14, "merge_size": 2, "min_pixels": 3136, "max_pixels": 12845056}
    with pytest.raises(ValueError, match="must be at least"):
        VisionSpec(**{**good, **bad})


def test_a_size_without_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="0x5"):
        QWEN3_VL.snap(0, 5)
