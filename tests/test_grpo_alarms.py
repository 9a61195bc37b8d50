"""Alarms: each is raised once, by what it is about and by nothing else, and not again after a resume."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.grpo_runs import KNOWN_WARNINGS, trainer
from vtagent.training import grpo
from vtagent.training.measure.drift import swap_share
from vtagent.training.rewards import RewardSettings, Verdict, group_rewards
from vtagent.training.rl.alarms import WINDOW, Alarms
from vtagent.training.rl.callbacks import WatchDecision

pytestmark = [pytest.mark.filterwarnings(warning) for warning in KNOWN_WARNINGS]

EASY = {"accuracy/large": 0.97, "direct_accuracy/large": 0.97, "zoomed_accuracy/large": 0.97}
HARD = {"accuracy/large": 0.5, "direct_accuracy/large": 0.0, "zoomed_accuracy/large": 0.97}


def raised(*entries: dict[str, Any], penalty: Any = "paper", threshold: float = 0.2, first: int = 1) -> list[str]:
    """The alarms of a run of 100 steps that logs these entries, each for a whole window of steps."""
    alarms = Alarms(penalty, threshold, max_steps=100)
    steps = enumerate((entry for entry in entries for _ in range(WINDOW)), first)
    return [line for step, entry in steps for line in alarms.read(step, entry)]


def zooms(share: float, **others: float) -> dict[str, float]:
    return {"zoom/large": share, "zoom/all": share, **EASY, **others}


def test_an_easy_source_that_zooms_more_than_one_minus_the_threshold_is_told_once() -> None:
    assert raised(zooms(0.5), zooms(0.79)) == []
    (line,) = raised(zooms(0.5), zooms(0.9), zooms(0.95), zooms(1.0))
    assert line.startswith("step 9: large: 82% zoom, above 80%, although direct answers are as good: 97% are right")
    assert len(raised(zooms(0.5), zooms(0.7), threshold=0.6)) == 1


@pytest.mark.parametrize("penalty", ["always", "tokens", "off"])
def test_without_a_threshold_no_penalty_turns(penalty: str) -> None:
    assert raised(zooms(0.9), penalty=penalty) == []


def test_a_source_that_needs_its_zooms_may_have_them() -> None:
    assert raised({"zoom/large": 0.95, **HARD}) == []


@pytest.mark.parametrize(
    ("share", "direct", "zoom", "said"),
    [
        (0.01, 0.2, 0.9, "large: 1.0% zoom, but forced to zoom, 90% are right, forced to answer, 20%"),
        (0.01, 0.9, 0.9, None),  # needs no zoom, and has none
        (0.99, 0.9, 0.9, "large: 99.0% zoom, but forced to zoom, 90% are right, forced to answer, 90%"),
        (0.99, 0.2, 0.9, None),  # needs its zooms
        (0.99, 0.9, 0.5, "large: 99.0% zoom, but"),
        (0.5, 0.2, 0.9, None),
    ],
)
def test_a_settled_source_is_told_if_its_forced_accuracies_speak_against_it(
    share: float, direct: float, zoom: float, said: str | None
) -> None:
    probed = {"forced/direct/accuracy/large": direct, "forced/zoom/accuracy/large": zoom}
    lines = raised({**zooms(share), **probed}, zooms(share), penalty="tokens")
    assert [said in line for line in lines if said] == [True] * (said is not None)
    assert len(lines) == (said is not None)


def test_a_source_that_was_never_probed_is_not_judged_by_it() -> None:
    assert raised(zooms(0.0), penalty="tokens") == []


def test_certainty_is_told_early_and_expected_late() -> None:
    (line,) = raised({"decision/entropy": 0.01}, {"decision/entropy": 0.01})
    assert line.startswith("step 5: the decision has an entropy of 0.010 nats in the first 20% of training")
    assert raised({"decision/entropy": 0.01}, first=21) == []
    assert raised({"decision/entropy": 0.4}, {"decision/entropy": 0.4}) == []


def test_one_noisy_step_raises_nothing() -> None:
    alarms = Alarms("paper", 0.2, max_steps=100)
    shares = [0.7, 0.7, 0.95, 0.7, 0.7, 0.95, 0.7]
    assert [line for step, share in enumerate(shares, 1) for line in alarms.read(step, zooms(share))] == []


@given(st.integers(1, 16), st.integers(0, 16), st.floats(0.01, 0.99))
def test_zooms_and_direct_answers_swap_who_pays_where_the_formula_says(
    direct: int, zoom: int, threshold: float
) -> None:
    """In a group whose direct answers and zooms are equally right, r = 1 - p decides."""
    group = [Verdict(True, True, False)] * direct + [Verdict(True, True, True)] * zoom
    p = zoom / (direct + zoom)
    rewards = group_rewards(group, RewardSettings(penalty="paper", threshold=threshold))
    directs_pay = any(
        reward is not None and reward.penalty and not v.zoomed for v, reward in zip(group, rewards, strict=True)
    )
    if abs(p - (1 - threshold)) > 1e-9:
        assert directs_pay == (p > swap_share(1.0, 1.0, threshold))


def test_the_command_logs_the_alarms_of_its_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    few = ["--max_steps", str(WINDOW), "--per_device_train_batch_size", "16", "--num_generations", "8"]
    recipe = str(Path(grpo.__file__).parent / "recipes" / "tiny.yaml")
    quick = ["--mix", "large print=1", "--threshold", "1", "--learning_rate", "0", "--evaluate_documents", "0"]
    grpo.main(["--config", recipe, "--output_dir", str(tmp_path), "--report_to", "none", *few, *quick])
    (line,) = [
        record.getMessage() for record in caplog.records if "alarms" in record.name or "callbacks" in record.name
    ]
    assert line.startswith("step 5: large print: ")
    assert "above 0%, although direct answers are as good" in line


def test_a_run_logs_its_alarms_and_says_none_twice_after_a_resume(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = trainer(tmp_path)
    watch = WatchDecision(run.args.rewards)
    run.state.max_steps = 100
    entries = [{"step": step, **zooms(0.9)} for step in range(1, 2 * WINDOW + 1)]
    with caplog.at_level(logging.WARNING):
        watch.on_train_begin(run.args, run.state, run.control)
        for entry in entries[:WINDOW]:
            run.state.global_step = entry["step"]
            watch.on_log(run.args, run.state, run.control, logs=entry)
        assert [record.getMessage()[:22] for record in caplog.records] == ["step 5: large: 90% zoom"[:22]]
        run.state.log_history = entries[:WINDOW]
        resumed = WatchDecision(run.args.rewards)
        resumed.on_train_begin(run.args, run.state, run.control)
        for entry in entries[WINDOW:]:
            run.state.global_step = entry["step"]
            resumed.on_log(run.args, run.state, run.control, logs=entry)
    assert len(caplog.records) == 1
    run.collector.close()
