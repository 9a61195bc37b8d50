"""Regions: the forms that are parsed, the errors for the others, and regions grown until a model can process them."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtagent.errors import RegionError
from vtagent.eyes.facts import Boxes
from vtagent.regions import Region, parse_region
from vtagent.visual_tokens import QWEN2_5_VL, QWEN3_VL


def parse(value: Any, width: int = 3000, height: int = 2000) -> Region | None:
    return parse_region(value, width=width, height=height)


@st.composite
def regions(draw: st.DrawFn) -> Region:
    x1, x2 = sorted(draw(st.lists(st.integers(0, 1000), min_size=2, max_size=2, unique=True)))
    y1, y2 = sorted(draw(st.lists(st.integers(0, 1000), min_size=2, max_size=2, unique=True)))
    return Region(x1, y1, x2, y2)


# Images a store would take: sides differ by at most 200 times.
image_sizes = st.tuples(st.integers(1, 20_000), st.integers(1, 20_000)).filter(lambda s: max(s) <= 200 * min(s))


@pytest.mark.parametrize(
    "value",
    [
        [100, 200, 500, 600],
        (100, 200, 500, 600),
        [100.0, 200.0, 500.0, 600.0],
        "100,200,500,600",
        " [100, 200, 500, 600] ",
        "(100, 200, 500, 600)",
        [[100, 200], [500, 600]],
        [[100, 200, 500, 600]],
        {"x1": 100, "y1": 200, "x2": 500, "y2": 600},
        {"left": 100, "top": 200, "right": 500, "bottom": 600},
        {"xmin": 100, "ymin": 200, "xmax": 500, "ymax": 600},
        {"x": 100, "y": 200, "width": 400, "height": 400},
        '{"x1": 100, "y1": 200, "x2": 500, "y2": 600}',
        Region(100, 200, 500, 600),
    ],
)
def test_the_ways_of_writing_a_region_that_are_understood(value: object) -> None:
    assert parse(value) == Region(100, 200, 500, 600)


@pytest.mark.parametrize("value", [None, "", "  ", "null", [], {}, "[]", [0, 0, 1000, 1000]])
def test_no_region_and_the_whole_image_are_the_same(value: object) -> None:
    assert parse(value) is None


@pytest.mark.parametrize(
    "value",
    [
        [200, 100, 600, 500],
        "[200, 100, 600, 500]",
        [[200, 100], [600, 500]],
        {"xmin": 100, "ymin": 200, "xmax": 500, "ymax": 600},
        {"x1": 100, "y1": 200, "x2": 500, "y2": 600},
        {"x": 100, "y": 200, "width": 400, "height": 400},
    ],
)
def test_y_first_is_the_order_of_lists_and_names_say_their_own(value: object) -> None:
    found = parse_region(value, width=3000, height=2000, boxes="thousandths, y first")
    assert found == Region(100, 200, 500, 600)


def test_pixels_are_those_of_the_view_as_shown() -> None:
    def on_a_view(value: object) -> Region | None:
        return parse_region(
            value, width=4000, height=3000, boxes="pixels as shown", shown=(500, 750), part=(1000, 0, 3000, 3000)
        )

    assert on_a_view([0, 0, 500, 750]) == Region(250, 0, 750, 1000)
    assert on_a_view([250, 75, 500, 150]) == Region(500, 100, 750, 200)
    with pytest.raises(RegionError, match="outside the image, which was shown at 500 x 750"):
        on_a_view([0, 0, 501, 750])


def test_a_region_is_itself_in_every_convention() -> None:
    for boxes in get_args(Boxes):
        assert parse_region(Region(1, 2, 3, 4), width=50, height=50, boxes=boxes) == Region(1, 2, 3, 4)


def test_fractional_thousandths_are_rounded_outwards() -> None:
    assert parse([12.5, 30.2, 400.2, 500.0]) == Region(12, 30, 401, 500)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ([600, 500, 200, 100], "could be swapped corners or"),
        ([900, 800, 300, 400], "could be swapped corners or"),
        ([300, 800, 900, 400], "could be swapped corners or"),
        ([0.07, 0.5, 0.75, 1.0], "fractions of the image or its very corner"),
        ([0.0, 0.0, 1.0, 1.0], "fractions of the image or its very corner"),
        ([0, 0, 1, 1], "fractions of the image or its very corner"),
        ([0.5, 20, 300, 400], "mixes fractions"),
        ([900, 500, 1005, 700], "runs past 1000"),
        ([1500, 1000, 3000, 2000], "runs past 1000"),
        ([100, 100, 100, 300], "empty"),
        ({"x": 100, "y": 200, "width": 0, "height": 400}, "empty"),
        ([-5, 0, 100, 100], "not negative"),
        ([1, 2, 3], "four numbers"),
        ([1, 2, 3, 4, 5], "four numbers"),
        ([math.nan, 0, 100, 100], "finite"),
        ([0, 0, math.inf, 100], "finite"),
        ([0, 0, 10**400, 100], "finite"),
        ([0, 0, True, 100], "numbers only"),
        (["1", "2", "3", "4"], "numbers only"),
        ([None, 0, 1, 2], "numbers only"),
        ("top left", "not four numbers"),
        ("[1, 2", "not four numbers"),
        ("[" * 5000, "not four numbers"),
        (7, "not a list"),
        ({"x1": 1, "y1": 2}, "needs exactly"),
    ],
)
def test_a_region_that_cannot_be_meant_is_refused_with_the_reason(value: object, why: str) -> None:
    with pytest.raises(RegionError, match=why) as refusal:
        parse(value)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 400


def test_a_refusal_tells_the_model_the_real_size_and_the_convention() -> None:
    with pytest.raises(RegionError, match=r"integers 0-1000.*3000x2000 pixels"):
        parse([0, 0, 5000, 5000])


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda x: st.lists(x, max_size=5))
)
def test_anything_at_all_gives_a_region_or_a_region_error(value: object) -> None:
    try:
        found = parse(value)
    except RegionError as error:
        refusal = str(error)
        assert "\n" not in refusal
    else:
        assert found is None or isinstance(found, Region)


@given(regions())
def test_strict_regions_pass_through_unchanged(region: Region) -> None:
    if region.x2 > 1 or region.y2 > 1:
        assert (parse(list(region)) or Region(0, 0, 1000, 1000)) == region


@pytest.mark.parametrize(
    "box", [(0, 0, 1001, 5), (-1, 0, 5, 5), (5, 5, 5, 9), (9, 5, 5, 9), (0, 0, 1.0, 5), (0, 0, True, 5)]
)
def test_a_region_itself_takes_only_ordered_integers(box: tuple[Any, ...]) -> None:
    with pytest.raises(RegionError):
        Region(*box)


@given(regions(), image_sizes)
def test_pixel_boxes_lie_inside_the_image_and_are_never_empty(region: Region, size: tuple[int, int]) -> None:
    left, top, right, bottom = region.to_pixels(*size)
    assert 0 <= left < right <= size[0]
    assert 0 <= top < bottom <= size[1]


@given(regions(), regions())
def test_containment_agrees_with_pixels(outer: Region, inner: Region) -> None:
    a, b = outer.to_pixels(1000, 1000), inner.to_pixels(1000, 1000)
    assert outer.contains(inner) == (a[0] <= b[0] and a[1] <= b[1] and b[2] <= a[2] and b[3] <= a[3])
    assert outer.contains(outer)


@pytest.mark.parametrize("spec", [QWEN2_5_VL, QWEN3_VL])
@given(region=regions(), size=image_sizes)
def test_a_fitted_region_can_be_looked_at(spec: Any, region: Region, size: tuple[int, int]) -> None:
    fitted = region.fitted(*size, spec)
    assert fitted.contains(region)
    left, top, right, bottom = fitted.to_pixels(*size)
    width, height = right - left, bottom - top
    assert width >= min(spec.factor, size[0])
    assert height >= min(spec.factor, size[1])
    assert max(width, height) <= spec.max_aspect * min(width, height)
    assert spec.tokens(*spec.fit(width, height)) >= 1
    assert fitted.fitted(*size, spec) == fitted


def test_a_small_region_grows_about_its_centre_and_stays_on_the_image() -> None:
    assert Region(500, 500, 502, 502).fitted(1000, 1000, QWEN2_5_VL) == Region(487, 487, 515, 515)
    assert Region(998, 0, 1000, 2).fitted(1000, 1000, QWEN2_5_VL) == Region(972, 0, 1000, 28)
    assert Region(100, 100, 400, 400).fitted(1000, 1000, QWEN2_5_VL) == Region(100, 100, 400, 400)
