"""What a summary says: counted apart, weighed as asked, both accountings of tokens, failures never hidden."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtagent.errors import DataError
from vtagent.graphs.state import ViewRecord
from vtagent.regions import Region
from vtagent.training.measure.effects import tool_effects
from vtagent.training.measure.markdown import effects_markdown, looks_markdown, markdown
from vtagent.training.measure.outcomes import Looks, Outcome, kept_tokens, looks_of, wall_seconds
from vtagent.training.measure.summaries import OVERALL, Estimate, SummaryRow, quantile, summarize

ZOOMED = Outcome(
    mode="zoom",
    source="small print",
    id="a",
    question="Total?",
    gold="1.50",
    answer="1.50",
    right=True,
    zooms=1,
    visual_tokens=175,
    full_visual_tokens=140,
    kept_visual_tokens=140,
    seconds=0.5,
)
DIRECT = replace(ZOOMED, source="large print", zooms=0, visual_tokens=35, kept_visual_tokens=35, number=1)


def only(rows: list[SummaryRow], mode: str, source: str) -> SummaryRow:
    (row,) = [row for row in rows if (row.mode, row.source) == (mode, source)]
    return row


def value(figure: Estimate | None) -> float:
    assert figure is not None
    assert figure.low <= figure.value <= figure.high
    return figure.value


def test_each_mode_and_source_is_counted_apart_and_all_together() -> None:
    rows = summarize([ZOOMED, DIRECT, replace(ZOOMED, mode="full", zooms=0, visual_tokens=140)])
    assert [(row.mode, row.source) for row in rows] == [
        ("full", "small print"),
        ("full", OVERALL),
        ("zoom", "large print"),
        ("zoom", "small print"),
        ("zoom", OVERALL),
    ]
    assert only(rows, "zoom", OVERALL).questions == 2


def test_the_same_outcomes_give_the_same_intervals() -> None:
    outcomes = [replace(ZOOMED, number=n, right=n % 3 > 0) for n in range(50)]
    assert summarize(outcomes) == summarize(outcomes)


def test_one_source_needs_no_overall_row() -> None:
    assert [row.source for row in summarize([ZOOMED])] == ["small print"]


def test_tokens_are_told_as_read_and_as_kept() -> None:
    rows = summarize([ZOOMED, DIRECT])
    row = only(rows, "zoom", OVERALL)
    assert row.visual_tokens == 105
    assert value(row.of_full_tokens) == pytest.approx(0.25 + 0.5)  # 25 % + p · 100 %
    assert value(row.kept_of_full_tokens) == pytest.approx(0.25 + 0.5 * 0.75)


def test_a_mix_weighs_sources_in_the_overall_row_alone() -> None:
    rows = summarize([ZOOMED, DIRECT], mix={"large": 2, "small": 1})
    row = only(rows, "zoom", OVERALL)
    assert value(row.of_full_tokens) == pytest.approx(0.25 + 1 / 3)
    assert value(row.zoomed) == pytest.approx(1 / 3)
    assert value(only(rows, "zoom", "small print").of_full_tokens) == 1.25


@pytest.mark.parametrize(
    ("mix", "complaint"),
    [
        ({"tiny": 1}, "'tiny', which is 0 of the sources: large print, small print"),
        ({"": 1}, "which is 2 of the sources"),
        ({"large": -1}, "the weight -1"),
        ({"large": 0}, "every source the weight 0"),
    ],
)
def test_a_mix_of_unknown_sources_or_no_weights_is_refused(mix: dict[str, float], complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        summarize([ZOOMED, DIRECT], mix=mix)


def test_accuracy_is_compared_with_full_resolution_on_the_same_questions() -> None:
    zoom = [replace(ZOOMED, number=n, right=n < 8) for n in range(10)]
    full = [replace(ZOOMED, mode="full", number=n, right=n < 9) for n in range(10)]
    row = only(summarize([*zoom, *full]), "zoom", "small print")
    assert row.accuracy is not None
    assert row.accuracy.value == 0.8
    assert row.of_full_accuracy is not None
    assert row.of_full_accuracy.value == pytest.approx(8 / 9)
    assert row.of_full_accuracy.high <= 1.0  # never better than full on any question


def test_a_failed_run_is_wrong_and_costs_nothing_and_is_counted() -> None:
    failed = replace(
        ZOOMED, right=False, error="RuntimeError: no", number=5, visual_tokens=0, full_visual_tokens=0, seconds=99.0
    )
    row = only(summarize([ZOOMED, failed]), "zoom", "small print")
    assert row.accuracy is not None
    assert (row.accuracy.value, row.failed, row.questions) == (0.5, 1, 2)
    assert (row.visual_tokens, row.p95_seconds) == (175, 0.5)


def test_where_every_run_failed_there_are_no_costs_and_the_table_is_still_written() -> None:
    failed = replace(ZOOMED, right=False, error="x", visual_tokens=0, full_visual_tokens=0)
    row = only(summarize([failed]), "zoom", "small print")
    assert (row.visual_tokens, row.of_full_tokens, row.zoomed, row.median_seconds) == (None, None, None, None)
    assert "| zoom | small print | 1 | 0.0% (0.0–0.0) |" in markdown([row])


def test_an_answer_that_nobody_could_judge_is_in_no_accuracy() -> None:
    row = only(summarize([ZOOMED, replace(ZOOMED, right=None, number=5)]), "zoom", "small print")
    assert row.accuracy is not None
    assert (row.accuracy.value, row.ungraded) == (1.0, 1)


def test_the_table_leaves_out_what_is_empty_everywhere() -> None:
    table = markdown(summarize([ZOOMED]))
    assert "failed" not in table
    assert "of full accuracy" not in table
    assert "| zoom | small print | 1 | 100.0% (100.0–100.0) | 100.0% | 175.0 | 125.0% (125.0–125.0) | 100.0% |" in table
    assert table.endswith("| 0.50 | 0.50 |")


def test_a_source_cannot_break_the_table() -> None:
    assert "| a\\|b c |" in markdown(summarize([replace(ZOOMED, source="a|b\nc")]))


PART = replace(ZOOMED, regions=1, area=0.2, holding=1, visual_tokens=63)


def test_zooms_are_told_by_where_they_look() -> None:
    elsewhere = replace(PART, number=1, holding=0, right=False)
    whole = replace(ZOOMED, number=2, area=1.0, holding=1)
    unknown = replace(PART, number=3, holding=None)  # the place of its value is not known
    direct = replace(DIRECT, source=ZOOMED.source, number=4, holding=0)
    row = only(summarize([PART, elsewhere, whole, unknown, direct]), "zoom", "small print")
    assert value(row.holding) == pytest.approx(2 / 3)
    assert value(row.area) == pytest.approx((3 * 0.2 + 1.0) / 4)
    assert value(row.regions) == pytest.approx(3 / 5)
    table = looks_markdown([row])
    assert "| zooms that hold the value | area of a zoom | regions a run |" in table
    assert "| zoom | small print | 80.0% (40.0–100.0) | 66.7% (" in table


def test_a_run_that_sees_more_raises_the_tokens_and_their_interval() -> None:
    outcomes = [replace(DIRECT, number=n) for n in range(50)] + [
        replace(ZOOMED, number=n, source=DIRECT.source) for n in range(50, 100)
    ]
    (row,) = summarize(outcomes)
    assert row.of_full_tokens is not None
    assert 0.5 < row.of_full_tokens.low < 0.75 < row.of_full_tokens.high < 1.0


def test_abstention_is_told_by_precision_and_recall() -> None:
    asked = [
        replace(DIRECT, number=0, unanswerable=True, abstained=True),
        replace(DIRECT, number=1, unanswerable=True, abstained=True),
        replace(DIRECT, number=2, unanswerable=True, abstained=False, right=False),
        replace(DIRECT, number=3, abstained=True, right=False),
        replace(DIRECT, number=4),
    ]
    (row,) = summarize(asked)
    assert value(row.abstention_precision) == pytest.approx(2 / 3)
    assert value(row.abstention_recall) == pytest.approx(2 / 3)
    (row,) = summarize(asked[4:])
    assert (row.abstention_precision, row.abstention_recall) == (None, None)
    assert looks_markdown([row]) == ""


def forced(number: int, direct: bool | None, zoom: bool | None, source: str = "small print") -> list[Outcome]:
    """A question with zooming forbidden and forced."""
    told = replace(ZOOMED, number=number, source=source)
    return [replace(told, mode="forced-direct", zooms=0, right=direct), replace(told, mode="forced-zoom", right=zoom)]


def test_the_tool_helps_hurts_or_makes_no_difference() -> None:
    pairs = [(False, True), (False, True), (True, False), (True, True), (False, False), (None, True)]
    outcomes = [outcome for number, pair in enumerate(pairs) for outcome in forced(number, *pair)]
    outcomes += forced(6, True, True, source="large print")
    large, small, both = tool_effects(outcomes, mix={"large": 1, "small": 1})
    assert (small.source, small.questions) == ("small print", 5)
    assert [value(e) for e in (small.helped, small.hurt, small.no_difference, small.both_right)] == [0.4, 0.2, 0.4, 0.2]
    assert (large.questions, value(large.no_difference), both.source) == (1, 1.0, OVERALL)
    assert value(both.helped) == pytest.approx(0.2)
    assert "| small print | 5 | 40.0% (" in effects_markdown([small])


def test_without_both_forced_modes_there_is_no_tool_effect() -> None:
    assert tool_effects([ZOOMED, forced(1, True, True)[0]]) == []
    assert effects_markdown([]) == ""


def test_wall_time_is_per_mode_and_leaves_interruptions_out() -> None:
    first = [replace(ZOOMED, ended=end, number=n) for n, end in enumerate((1.0, 4.0))]
    second = replace(ZOOMED, ended=2.0, session=1, number=2)
    assert wall_seconds([*first, second, replace(ZOOMED, mode="full", ended=3.0)]) == {"zoom": 6.0, "full": 3.0}


def test_quantiles_are_those_of_the_values_by_weight() -> None:
    assert quantile([(1.0, 1.0), (2.0, 1.0), (9.0, 2.0)], 0.5) == 2.0
    assert quantile([(1.0, 1.0), (2.0, 1.0), (9.0, 2.0)], 0.95) == 9.0
    assert quantile([], 0.5) is None


def view(scale: float, tokens: int, region: str = "", image: str = "a") -> ViewRecord:
    query = "&".join([f"region={region}"] * bool(region) + [f"scale={scale:g}"] * (scale < 1))
    url = f"vtimg://sha256/{image * 64}" + (f"?{query}" if query else "")
    return ViewRecord(url=url, kind="low", region=None, width=1, height=1, tokens=tokens)


@pytest.mark.parametrize(
    ("views", "kept"),
    [
        ([view(0.5, 35)], 35),
        ([view(0.5, 35), view(1.0, 140)], 140),  # the low view is replaced
        ([view(0.5, 35), view(1.0, 40, "0,0,500,500")], 75),  # a region leaves the rest of the low view needed
        ([view(1.0, 40, "0,0,500,500"), view(1.0, 10, "100,100,200,200")], 40),  # a part of a part
        ([view(0.5, 35), view(1.0, 140, image="b")], 175),  # another image
        ([view(1.0, 140), view(1.0, 140)], 140),  # the same view twice is one
        ([], 0),
    ],
)
def test_a_view_is_kept_unless_another_shows_the_same_more_finely(views: list[ViewRecord], kept: int) -> None:
    assert kept_tokens(views) == kept


def looked(kind: str, *region: int) -> ViewRecord:
    return {**view(1.0, 10), "kind": kind, "region": list(region) or None}  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    ("views", "found"),
    [
        ([looked("low")], Looks(0, 0.0, 0)),
        ([looked("low"), looked("zoom")], Looks(0, 1.0, 1)),  # all of the image holds everything
        ([looked("low"), looked("zoom", 0, 0, 500, 400)], Looks(1, 0.2, 1)),
        ([looked("low"), looked("zoom", 500, 0, 1000, 400)], Looks(1, 0.2, 0)),
        ([looked("zoom", 150, 0, 650, 400), looked("zoom", 0, 0, 1000, 500)], Looks(2, 0.7, 1)),  # half of the value
        ([looked("low"), looked("tool", 0, 0, 500, 400)], Looks(0, 0.0, 0)),  # shown by another tool, not asked for
    ],
)
def test_a_zoom_holds_the_value_if_it_shows_all_of_it(views: list[ViewRecord], found: Looks) -> None:
    assert looks_of(views, Region(100, 100, 300, 150)) == found
    assert looks_of(views, None) == replace(found, holding=None)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.25, 0.5, 1.0]), st.sampled_from(["", "0,0,500,500", "0,0,250,250"]), st.integers(1, 99)
        ),
        max_size=6,
    )
)
def test_something_is_always_kept_and_never_more_than_was_read(drawn: list[tuple[float, str, int]]) -> None:
    views = list({(v := view(scale, tokens, region))["url"]: v for scale, region, tokens in drawn}.values())
    assert bool(views) <= kept_tokens(views) <= sum(v["tokens"] for v in views)
