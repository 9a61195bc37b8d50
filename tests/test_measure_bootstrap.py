"""Bootstrap intervals: they cover what they should, are paired, weighted, repeatable, and cheap."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtagent.training.measure.bootstrap import interval, resampled_means, weighted_mean

ANSWERS = np.array([[1.0]] * 80 + [[0.0]] * 20)


def test_the_interval_of_a_share_is_about_the_normal_one() -> None:
    low, high = interval(resampled_means([ANSWERS], [1.0], resamples=20_000)[:, 0])
    width = 1.96 * math.sqrt(0.8 * 0.2 / 100)
    assert (low, high) == pytest.approx((0.8 - width, 0.8 + width), abs=0.011)


def test_equal_arguments_give_equal_numbers_and_another_seed_others() -> None:
    first, again, other = (resampled_means([ANSWERS], [1.0], seed=seed) for seed in (7, 7, 8))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_quantities_of_one_question_are_drawn_together() -> None:
    both = np.hstack([ANSWERS, ANSWERS])
    drawn = resampled_means([both], [1.0])
    assert np.allclose(drawn[:, 0], drawn[:, 1])


def test_the_ratio_of_paired_modes_is_tighter_than_that_of_unrelated_ones() -> None:
    full = np.repeat([1.0, 0.0], [900, 100])
    zoom = full.copy()
    zoom[:10] = 0.0  # wrong on ten that full resolution reads
    rng = np.random.default_rng(0)
    paired = resampled_means([np.column_stack([zoom, full])], [1.0])
    shuffled = resampled_means([np.column_stack([zoom, rng.permutation(full)])], [1.0])
    widths = [high - low for low, high in (interval(m[:, 0] / m[:, 1]) for m in (paired, shuffled))]
    assert widths[0] < 0.6 * widths[1]


def test_strata_are_weighted_and_drawn_apart() -> None:
    always, never = np.ones((10, 1)), np.zeros((1000, 1))
    assert weighted_mean([always, never], [2, 1]) == pytest.approx([2 / 3])
    assert np.allclose(resampled_means([always, never], [2, 1]), 2 / 3)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30))
def test_redrawn_means_stay_between_the_extremes_and_around_the_mean(values: list[float]) -> None:
    column = np.array(values)[:, None]
    drawn = resampled_means([column], [1.0], resamples=200)
    assert drawn.min() >= min(values) - 1e-6
    assert drawn.max() <= max(values) + 1e-6
    assert abs(drawn.mean() - np.mean(values)) <= 5 * np.std(values) / math.sqrt(200 * len(values)) + 1e-6


def test_many_distinct_values_are_drawn_in_parts_with_the_same_outcome() -> None:
    values = np.arange(5000.0)[:, None]
    drawn = resampled_means([values], [1.0], resamples=1500)
    assert drawn.shape == (1500, 1)
    assert drawn.std() == pytest.approx(values.std() / math.sqrt(5000), rel=0.1)


def test_an_interval_leaves_out_ratios_to_nothing() -> None:
    assert interval(np.array([1.0, 1.0, np.inf, np.nan])) == (1.0, 1.0)
    assert all(math.isnan(side) for side in interval(np.array([np.inf])))
