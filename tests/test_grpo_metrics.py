"""The figures of a step: who zooms, who is right, how sure the policy is where it decides."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from tests.checkpoints import make_processor
from tests.grpo_runs import KNOWN_WARNINGS, logged, trainer
from vtagent.models.codec import Codec
from vtagent.models.families import tool_template
from vtagent.training.measure.outcomes import Looks
from vtagent.training.rewards import Verdict
from vtagent.training.rl.metrics import Failure, Scored, decision, rollout_metrics
from vtagent.training.rl.rollout import Turn

pytestmark = [pytest.mark.filterwarnings(warning) for warning in KNOWN_WARNINGS]


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


def test_zooms_are_told_by_where_they_look_and_for_each_source() -> None:
    held = replace(RIGHT_ZOOM, zooms=1, looks=Looks(regions=1, area=0.2, holding=1))
    missed = replace(RIGHT_ZOOM, zooms=1, looks=Looks(regions=1, area=0.3, holding=0))
    whole = replace(scored(True, True, source="large"), zooms=1, looks=Looks(regions=0, area=1.0, holding=None))
    found = rollout_metrics([[held, missed, WRONG], [whole]])
    assert (found["regions/holding"], found["regions/holding/small"]) == (0.5, 0.5)
    assert "regions/holding/large" not in found  # the place of its values is not known
    assert [found["regions/area"], found["regions/area/small"]] == pytest.approx([0.5, 0.25])
    assert [found["regions/per_run"], found["regions/per_run/small"]] == pytest.approx([0.5, 2 / 3])
    assert (found["zoomed_accuracy/small"], found["direct_accuracy/small"]) == (1.0, 0.0)


def test_who_abstains_is_compared_with_who_should() -> None:
    should, did = replace(WRONG, unanswerable=True), replace(WRONG, abstained=True)
    found = rollout_metrics([[should, did, replace(RIGHT, unanswerable=True, abstained=True)]])
    assert (found["abstention/precision"], found["abstention/recall"]) == (0.5, 0.5)
    assert (found["abstention/precision/small"], found["abstention/recall/large"]) == (0.0, 1.0)
    assert "abstention/precision" not in rollout_metrics([[WRONG]])


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


def test_the_log_says_where_the_time_goes_and_how_long_runs_are(tmp_path: Path) -> None:
    run = trainer(tmp_path, seed=2)
    run.train()
    parts = [logged(run, f"time/{name}")[0] for name in ("weights", "rollouts", "grading")]
    assert all(part > 0 for part in parts)
    assert sum(parts) < logged(run, "step_time")[0]
    lengths = [logged(run, f"length/{name}")[0] for name in ("p50", "p95", "max")]
    assert 5 < lengths[0] <= lengths[1] <= lengths[2] <= 96
    assert logged(run, "tokens_per_second")[0] > 0
