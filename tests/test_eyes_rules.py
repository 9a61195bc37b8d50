"""Every rule keeps what views build on: sizes that are not shrunk again, and low views that are cheaper."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtagent.errors import ImageTooLarge
from vtagent.eyes import FAMILIES, KnownFamily, Vision, eyes_of
from vtagent.eyes.rules import ClaudePatches, Gemini2Tiles, Gemini3Grid, GptPatches, GptTiles
from vtagent.images import ImageRef
from vtagent.views import View
from vtagent.visual_tokens import QWEN2_5_VL, QWEN3_VL, VisionSpec

VISIONS = {family.name: family.vision for family in FAMILIES}
VISIONS["GPT tiles without their setting"] = GptTiles(85, 170, setting=False)
VISIONS["Gemini 3 without its setting"] = Gemini3Grid(setting=False)
EVERY = pytest.mark.parametrize("vision", VISIONS.values(), ids=VISIONS)
HOSTED = {name: vision for name, vision in VISIONS.items() if not isinstance(vision, VisionSpec)}
EVERY_HOSTED = pytest.mark.parametrize("vision", HOSTED.values(), ids=HOSTED)
BY_PIXELS = {name: vision for name, vision in HOSTED.items() if not isinstance(vision, Gemini3Grid)}

KINDS = {
    "photograph of 12 Mpx": (4032, 3024),
    "A4 at 300 dpi": (2480, 3508),
    "4K screenshot": (3840, 2160),
    "1024 x 768": (1024, 768),
    "long receipt": (800, 4000),
}


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int]:
    """Sizes of every order of magnitude up to 12,000 pixels a side, no thinner than models take."""
    width = draw(st.one_of(st.integers(1, 64), st.integers(1, 2600), st.integers(1, 12_000)))
    height = draw(st.integers(-(-width // 200), min(12_000, width * 200)))
    return width, height


scales = st.floats(0.02, 1.0)


@EVERY
def test_it_is_a_vision(vision: Vision) -> None:
    assert isinstance(vision, Vision)
    assert vision.factor >= 1
    assert vision.max_aspect >= 1


@EVERY
@settings(max_examples=150)
@given(size=sizes())
def test_what_fits_is_not_shrunk_again(vision: Vision, size: tuple[int, int]) -> None:
    fitted = vision.fit(*size)
    assert vision.fit(*fitted) == fitted
    assert vision.snap(*fitted) == fitted


@EVERY
@settings(max_examples=150)
@given(size=sizes())
def test_shrinking_before_sending_changes_no_bill(vision: Vision, size: tuple[int, int]) -> None:
    if isinstance(vision, VisionSpec) and vision.snap(*size) != vision.fit(*size):
        return  # the few thin images that `VisionSpec.fit` squeezes: their snapped size would be refused
    assert vision.tokens(*vision.fit(*size)) == vision.tokens(*size)


@EVERY
@settings(max_examples=150)
@given(size=sizes(), scale=scales)
def test_a_low_view_costs_no_more_than_the_whole_and_is_not_shrunk_again(
    vision: Vision, size: tuple[int, int], scale: float
) -> None:
    low = vision.low(*size, scale)
    assert vision.tokens(*low, low=scale < 1) <= vision.tokens(*size)
    assert vision.fit(*low) == low


@EVERY_HOSTED
@settings(max_examples=150)
@given(size=sizes(), scale=scales)
def test_hosted_models_are_sent_no_more_pixels_than_there_are(
    vision: Vision, size: tuple[int, int], scale: float
) -> None:
    (width, height), (low_width, low_height) = vision.fit(*size), vision.low(*size, scale)
    assert low_width <= width <= size[0]
    assert low_height <= height <= size[1]


@pytest.mark.parametrize("vision", BY_PIXELS.values(), ids=BY_PIXELS)
@settings(max_examples=150)
@given(size=sizes(), cut=st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)))
def test_a_larger_image_costs_no_less_while_nothing_is_shrunk(
    vision: Vision, size: tuple[int, int], cut: tuple[float, float]
) -> None:
    width, height = vision.fit(*size)
    smaller = max(1, int(width * cut[0])), max(1, int(height * cut[1]))
    if max(smaller) <= vision.max_aspect * min(smaller):
        assert vision.tokens(*smaller) <= vision.tokens(width, height)


@pytest.mark.parametrize("vision", BY_PIXELS.values(), ids=BY_PIXELS)
@settings(max_examples=100)
@given(size=sizes(), one=scales, other=scales)
def test_a_larger_scale_costs_no_less(vision: Vision, size: tuple[int, int], one: float, other: float) -> None:
    less, more = sorted([one, other])
    if more < 1:
        assert vision.tokens(*vision.low(*size, less), low=True) <= vision.tokens(*vision.low(*size, more), low=True)


@EVERY
@settings(max_examples=100)
@given(size=sizes())
def test_full_scale_is_the_whole(vision: Vision, size: tuple[int, int]) -> None:
    assert vision.low(*size, 1.0) == vision.fit(*size)


@EVERY
def test_an_image_that_is_too_thin_or_empty_is_refused(vision: Vision) -> None:
    with pytest.raises(ImageTooLarge, match="too thin"):
        vision.fit(10_000, 49)
    with pytest.raises(ImageTooLarge, match="too thin"):
        vision.tokens(49, 10_000)
    with pytest.raises(ValueError, match="at least 1 pixel"):
        vision.fit(0, 10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_low_view_is_billed_at_most_thirty_percent(family: KnownFamily, kind: str) -> None:
    vision = family.vision
    share = vision.tokens(*vision.low(*KINDS[kind], 0.5), low=True) / vision.tokens(*KINDS[kind])
    if isinstance(vision, Gemini2Tiles) and kind == "1024 x 768":
        assert share == 0.5  # two tiles or one: the rule admits no less
    else:
        assert share <= 0.3


def test_half_the_sides_of_the_file_would_save_nothing_where_the_provider_shrinks() -> None:
    claude = eyes_of("claude-sonnet-4-5").vision
    assert claude.tokens(2016, 1512) == claude.tokens(4032, 3024) == 1564


@pytest.mark.parametrize("spec", [QWEN2_5_VL, QWEN3_VL], ids=["qwen2.5-vl", "qwen3-vl"])
@settings(max_examples=100)
@given(size=sizes(), scale=scales)
def test_a_low_view_of_the_qwen_grids_is_the_size_that_views_have(
    spec: VisionSpec, size: tuple[int, int], scale: float
) -> None:
    view = View(ImageRef("ab" * 32, *size, "image/png"), scale=scale)
    rendered = view.size(spec)
    cheaper = spec.tokens(*rendered) <= spec.tokens(*size)
    assert spec.low(*size, view.scale) == (rendered if cheaper else spec.fit(*size))


def test_claude_shrinks_as_its_vendor_documents() -> None:
    standard, high = ClaudePatches(1568, 1568), ClaudePatches(2576, 4784)
    assert standard.fit(1075, 1520) == (924, 1307)
    assert standard.fit(1920, 1080) == (1456, 819)
    assert high.fit(1075, 1520) == (1075, 1520)
    # By the vendor's reference implementation, as others computed it.
    assert (standard.fit(6000, 4000), high.fit(6000, 4000)) == ((1344, 896), (2352, 1568))
    assert (standard.fit(3024, 1964), high.fit(3024, 1964)) == ((1372, 891), (2380, 1546))


def test_many_images_lower_claudes_longest_side() -> None:
    eyes = eyes_of("anthropic:claude-opus-4-7")
    assert eyes.vision_for(20).fit(800, 4000) == (515, 2576)
    assert max(eyes.vision_for(21).fit(800, 4000)) <= 2000
    assert (eyes.limits.side(20), eyes.limits.side(21)) == (8000, 2000)


LIMITED = {name: vision for name, vision in VISIONS.items() if isinstance(vision, ClaudePatches | GptPatches)}


@pytest.mark.parametrize("vision", LIMITED.values(), ids=LIMITED)
@settings(max_examples=150)
@given(size=sizes())
def test_what_fits_is_within_both_limits(vision: ClaudePatches | GptPatches, size: tuple[int, int]) -> None:
    width, height = vision.fit(*size)
    squares = -(-width // vision.patch) * -(-height // vision.patch)
    assert max(width, height) <= vision.max_edge
    assert squares <= (vision.max_tokens if isinstance(vision, ClaudePatches) else vision.budget)


def test_gpt_patches_shrink_as_the_vendor_documents() -> None:
    assert GptPatches(1.62, 1536, 2048).fit(1800, 2400) == (1056, 1408)
    gpt_54 = GptPatches(1.2, 2500, 2048)
    assert gpt_54.fit(2048, 2048) == (1600, 1600)
    assert (gpt_54.tokens(1024, 1024), gpt_54.tokens(2048, 2048)) == (1229, 3000)


def test_the_low_setting_decides_the_bill_and_the_size_that_the_model_keeps() -> None:
    tiles = GptTiles(85, 170)
    assert tiles.low(4032, 3024, 0.5) == (512, 384)
    assert tiles.tokens(512, 384, low=True) == 85
    assert tiles.tokens(512, 384) == 255
    grid = Gemini3Grid()
    assert (grid.tokens(1024, 1024), grid.tokens(1024, 1024, low=True)) == (1089, 256)
