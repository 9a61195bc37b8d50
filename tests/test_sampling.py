"""Batched sampling: each row by its own settings, each with its own random stream."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import RepetitionPenaltyLogitsProcessor

from vtagent.models.engine import Sampling
from vtagent.models.local.sampling import BatchSampler

CPU = torch.device("cpu")
LOGITS = torch.tensor([0.0, 1.0, 2.0, 3.0, -1.0])


def draw(own: Sampling, times: int = 1, *, banned: frozenset[int] = frozenset(), seed: int = 0) -> list[int]:
    sampler = BatchSampler([own], [random.Random(seed)], banned, CPU)
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
    own = Sampling(temperature=0.5, logit_bias={0: 50.0}, banned=frozenset({3}))
    tokens, logprobs = BatchSampler([own], [random.Random(0)], frozenset(), CPU)(LOGITS[None])
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


def reference(logits: torch.Tensor, top_k: int, top_p: float) -> torch.Tensor:
    """The distribution by the definitions, with a sort of everything."""
    probabilities = logits.double().softmax(-1)
    order = sorted(range(len(logits)), key=lambda token: -logits[token].item())
    kept = order[: top_k or None]
    probabilities[[token for token in range(len(logits)) if token not in kept]] = 0
    probabilities /= probabilities.sum()
    nucleus: list[int] = []
    while not nucleus or (
        len(nucleus) < len(kept) and probabilities[nucleus].sum() < top_p
    ):  # all may sum to less than 1
        nucleus.append(order[len(nucleus)])
    probabilities[[token for token in range(len(logits)) if token not in nucleus]] = 0
    return probabilities / probabilities.sum()


@settings(max_examples=60)
@given(
    st.permutations(range(40)),
    st.lists(st.tuples(st.integers(0, 45), st.floats(0.05, 1.0), st.integers(0, 99)), min_size=1, max_size=4),
    st.sampled_from([4, 512]),
)
def test_whatever_is_sorted_first_the_same_token_is_drawn(
    shuffled: list[int], rows: list[tuple[int, float, int]], nucleus: int
) -> None:
    logits = torch.tensor(shuffled).float() / 8
    own = [Sampling(temperature=1.0, top_k=top_k, top_p=top_p) for top_k, top_p, _ in rows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vtagent.models.local.sampling._NUCLEUS", nucleus)
        streams = [random.Random(seed) for _, _, seed in rows]
        tokens, _ = BatchSampler(own, streams, frozenset(), CPU)(logits.expand(len(rows), -1))
    for token, (top_k, top_p, seed) in zip(tokens, rows, strict=True):
        cumulative = reference(logits, top_k, top_p).cumsum(-1)
        target = random.Random(seed).random()
        assert cumulative[token] >= target - 1e-6
        assert token == 0 or cumulative[token - 1] <= target + 1e-6


@settings(max_examples=30)
@given(st.lists(st.integers(0, 4), max_size=6), st.floats(0.5, 3.0))
def test_the_repetition_penalty_is_that_of_transformers(said: list[int], penalty: float) -> None:
    processor = RepetitionPenaltyLogitsProcessor(penalty)
    expected = processor(torch.tensor([said], dtype=torch.long), LOGITS[None].clone()) if said else LOGITS[None]
    own = [Sampling(repetition_penalty=penalty), Sampling()]
    sampler = BatchSampler(own, [random.Random(0)] * 2, frozenset(), CPU, (), [said, [3]])
    tokens, logprobs = sampler(LOGITS.expand(2, 5))
    assert tokens == [int(expected.argmax()), 3]
    assert logprobs[1] == pytest.approx(LOGITS.log_softmax(-1)[3].item())
    assert logprobs[0] == pytest.approx(LOGITS.log_softmax(-1)[tokens[0]].item())


def test_what_a_row_has_sampled_is_penalized_too() -> None:
    sampler = BatchSampler([Sampling(repetition_penalty=100.0)], [random.Random(0)], frozenset(), CPU, (), [[0]])
    assert [sampler(LOGITS[None])[0][0] for _ in range(3)] == [3, 2, 1]
