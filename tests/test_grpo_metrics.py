"""The figures of a step: who zooms, who is right, how sure the policy is where it decides."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tests.checkpoints import make_processor
from vtagent.models.codec import Codec
from vtagent.models.families import tool_template
from vtagent.training.rewards import Verdict
from vtagent.training.rl.metrics import Failure, Scored, decision, rollout_metrics
from vtagent.training.rl.rollout import Turn


def scored(right: bool | None, zoomed: bool, *, failure: Failure | None = None, source: str = "small") -> Scored:
    """A rollout of which this is known."""
    return Scored(
        example="1",
        source=source,
        verdict=Verdict(right, True, zoomed),
        failure=failure,
        p_zoom=0.5,
        visual_tokens=175 if zoomed else 35,
        kept_visual_tokens=140 if zoomed else 35,
        full_visual_tokens=140,
        mistakes=0,
        seconds=1.0,
    )


RIGHT_ZOOM, WRONG, RIGHT = scored(True, True), scored(False, False), scored(True, False, source="large")


def test_shares_are_of_those_that_are_known() -> None:
    found = rollout_metrics([[RIGHT_ZOOM, WRONG], [RIGHT, RIGHT]])
    assert found["zoom/all"] == 0.25
    assert found["zoom/right"] == pytest.approx(1 / 3)
    assert found["zoom/wrong"] == 0.0
    assert (found["accuracy/all"], found["accuracy/zoomed"]) == (0.75, 1.0)
    assert (found["zoom/small"], found["zoom/large"]) == (0.5, 0.0)
    assert found["groups/r"] == 0.5  # no direct answer is right in the first group, all are in the second
    assert found["visual_tokens/of_full"] == pytest.approx((175 + 3 * 35) / (4 * 140))


def test_tokens_are_told_in_both_accountings_and_for_each_source() -> None:
    found = rollout_metrics([[RIGHT_ZOOM, WRONG], [RIGHT, RIGHT]])
    assert found["visual_tokens/kept_of_full"] == pytest.approx((140 + 3 * 35) / (4 * 140))
    assert found["visual_tokens/of_full/small"] == pytest.approx((175 + 35) / 280)
    assert found["visual_tokens/kept_of_full/small"] == pytest.approx((140 + 35) / 280)
    assert found["visual_tokens/of_full/large"] == found["visual_tokens/kept_of_full/large"] == 0.25


def test_rollouts_without_a_verdict_are_counted_and_left_out() -> None:
    failed = replace(
        scored(None, False, failure="failed"), visual_tokens=0, kept_visual_tokens=0, full_visual_tokens=0, p_zoom=None
    )
    truncated, judge = scored(None, True, failure="truncated"), scored(None, True, failure="judge")
    found = rollout_metrics([[RIGHT, failed, truncated, judge]])
    assert (found["rollouts/failed"], found["rollouts/truncated"], found["rollouts/judge_failed"]) == (1, 1, 1)
    assert found["accuracy/all"] == 1.0
    assert found["zoom/all"] == pytest.approx(2 / 3)  # a run that failed has neither zoomed nor not


def test_of_a_batch_of_which_nothing_is_known_only_counts_are_told() -> None:
    found = rollout_metrics([[scored(None, False, failure="failed")]])
    assert "accuracy/all" not in found
    assert "groups/r" not in found
    assert found["rollouts/failed"] == 1
    assert not any(math.isnan(value) for value in found.values())


@pytest.mark.parametrize(
    ("text", "at", "expected"),
    [
        ("<think>a</think><tool_call>{}</tool_call>", "<tool_call>", 0.2),
        ("<think>a</think><answer>4</answer>", "<answer>", 0.8),
        ("<think>a</think>\n\n<answer>4</answer>", "<answer>", 0.8),
        ("<think>never closed", None, None),
    ],
)
def test_the_decision_is_the_first_word_after_thinking(text: str, at: str | None, expected: float | None) -> None:
    processor = make_processor("qwen3_vl", chat_template=tool_template())
    codec = Codec(processor.tokenizer, processor.chat_template)
    ids = codec.encode(text)
    decided = codec.encode(at)[0] if at else None
    logprobs = [math.log(0.2) if token == decided else -9.0 for token in ids]
    found = decision(Turn((1,), tuple(ids), tuple(logprobs), "stop"), codec)
    assert found == (None if expected is None else pytest.approx(expected))
