"""Batched sampling: each row by its own settings, each with its own random stream."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
import torch

from vtagent.models.engine import Sampling
from vtagent.models.local.sampling import BatchSampler

CPU = torch.device("cpu")
LOGITS = torch.tensor([0.0, 1.0, 2.0, 3.0, -1.0])


def draw(settings: Sampling, times: int = 1, *, banned: frozenset[int] = frozenset(), seed: int = 0) -> list[int]:
    sampler = BatchSampler([settings], [random.Random(seed)], banned, CPU)
    return [sampler(LOGITS[None])[0][0] for _ in range(times)]


def test_temperature_0_takes_the_likeliest_token_and_reports_its_logprob_at_temperature_1() -> None:
    tokens, logprobs = BatchSampler([Sampling()], [random.Random(0)], frozenset(), CPU)(LOGITS[None])
    assert tokens == [3]
    assert logprobs == pytest.approx([LOGITS.log_softmax(-1)[3].item()])


def test_draws_follow_the_tempered_distribution() -> None:
    counts = Counter(draw(Sampling(temperature=2.0), 4000))
    expected = (LOGITS / 2).softmax(-1)
    assert all(abs(counts[token] / 4000 - expected[token].item()) < 0.03 for token in range(5))


def test_logprobs_are_of_the_unbiased_logits_whatever_is_banned_or_biased() -> None:
    settings = Sampling(temperature=0.5, logit_bias={0: 50.0}, banned=frozenset({3}))
    tokens, logprobs = BatchSampler([settings], [random.Random(0)], frozenset(), CPU)(LOGITS[None])
    assert tokens == [0]
    assert logprobs == pytest.approx([(LOGITS / 0.5).log_softmax(-1)[0].item()])


def test_the_bias_is_added_to_the_logits_before_the_temperature() -> None:
    counts = Counter(draw(Sampling(temperature=2.0, logit_bias={0: 3.0}), 4000))
    expected = ((LOGITS + torch.tensor([3.0, 0, 0, 0, 0])) / 2).softmax(-1)
    assert abs(counts[0] / 4000 - expected[0].item()) < 0.03


def test_banned_tokens_are_never_drawn() -> None:
    hot = Sampling(temperature=100.0, banned=frozenset({0}))
    assert set(draw(hot, 500, banned=frozenset({4}))) == {1, 2, 3}


def test_top_k_keeps_the_likeliest_tokens() -> None:
    assert set(draw(Sampling(temperature=100.0, top_k=2), 300)) == {2, 3}


def test_top_p_keeps_the_smallest_set_that_reaches_p() -> None:
    probabilities = LOGITS.softmax(-1)
    just_two = (probabilities[3] + probabilities[2]).item() - 0.01
    assert set(draw(Sampling(temperature=1.0, top_p=just_two), 500)) == {2, 3}
    assert set(draw(Sampling(temperature=1.0, top_p=1e-6), 50)) == {3}


def test_a_row_draws_the_same_tokens_alone_and_in_company() -> None:
    own, other = Sampling(temperature=1.0, seed=5), Sampling(temperature=0.7, top_k=3)
    alone = draw(own, 20, seed=5)
    together = BatchSampler([other, own, Sampling()], [random.Random(seed) for seed in (1, 5, 2)], frozenset(), CPU)
    assert [together(LOGITS.expand(3, 5))[0][1] for _ in range(20)] == alone


def test_logits_that_are_not_numbers_are_reported_as_such() -> None:
    broken = torch.full((1, 5), math.nan)
    _, logprobs = BatchSampler([Sampling(temperature=1.0)], [random.Random(0)], frozenset(), CPU)(broken)
    assert math.isnan(logprobs[0])
