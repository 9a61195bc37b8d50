"""python -m vtagent.training.ablation: the same training under several penalties and from several starts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.grpo_runs import KNOWN_WARNINGS
from vtagent.errors import SettingsError
from vtagent.models.families import checkpoint_path
from vtagent.training import ablation, grpo
from vtagent.training.durable import held
from vtagent.training.measure.penalties import Beginning, Comparison, Rule, change, over_seeds, smoothed, zoom_shares
from vtagent.training.measure.plots import Series
from vtagent.training.rewards import RewardSettings

pytestmark = [pytest.mark.filterwarnings(warning) for warning in KNOWN_WARNINGS]

RECIPE = Path(grpo.__file__).parent / "recipes" / "ablation.yaml"
EASY_AND_HARD = {"large print": [(1.0, 1.0)], "small print": [(0.0, 1.0)]}


def history(*shares: float, accuracy: float = 1.0) -> list[dict[str, float]]:
    """A run that logged these shares of zooms, from step 1 on."""
    return [
        {"step": step, "zoom/small print": share, "zoom/all": share}
        | {"accuracy/small print": accuracy, "visual_tokens/of_full": 0.5}
        for step, share in enumerate(shares, 1)
    ]


def comparison(runs: dict[str, Any], *, share: float = 0.5, pages: Any = None) -> Comparison:
    beginnings = {start: Beginning(share, pages or {"small print": [(1.0, 1.0)]}) for start in runs}
    return Comparison(RewardSettings(), 8, beginnings, runs)


# ------------------------------------------------------------------------------------------------ penalties


def test_a_penalty_is_named_with_its_threshold() -> None:
    rule = Rule.parse("paper=0.15")
    assert (rule, rule.name, rule.label) == (Rule("paper", 0.15), "paper-0.15", "paper, θ = 0.15")
    recipe = RewardSettings(penalty="paper", threshold=0.2, penalty_size=0.3)
    assert rule.settings(recipe) == RewardSettings(penalty="paper", threshold=0.15, penalty_size=0.3)
    assert Rule.parse("tokens").settings(recipe) == RewardSettings(penalty="tokens", threshold=0.2, penalty_size=0.3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("papper", "write one of paper, paper-correct-only"),
        ("always=0.2", "only paper, paper-correct-only, reference have a threshold; write always"),
        ("paper=a", "must be a number between 0 and 1"),
        ("paper=2", "must be a number between 0 and 1"),
        ("paper=nan", "must be a number between 0 and 1"),
        ("paper=", "must be a number between 0 and 1"),
    ],
)
def test_a_penalty_that_cannot_be_is_told_with_what_would_be_right(text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Rule.parse(text)


# ------------------------------------------------------------------------------------------------ tables


def test_smoothing_takes_the_steps_before_into_the_mean() -> None:
    assert smoothed(Series([1, 2, 3], [1.0, 0.0, 0.5]), window=2).y == [1.0, 0.5, 0.25]


def test_seeds_become_a_mean_with_a_band_where_all_of_them_are_known() -> None:
    both = over_seeds([Series([1, 2, 3], [0.0, 0.5, 1.0]), Series([1, 2], [1.0, 0.5])])
    assert both == Series([1, 2], [0.5, 0.5], [0.0, 0.5], [1.0, 0.5])


def test_shares_are_told_apart_by_source_and_the_whole_is_no_source() -> None:
    shares = zoom_shares([history(0.2), history(0.4)])
    assert list(shares) == ["small print"]
    assert list(shares["small print"].y) == pytest.approx([0.3])


def test_a_run_goes_from_its_first_steps_to_its_last() -> None:
    assert change(history(*[0.5] * 5, 0.9, *[0.1] * 5)) == pytest.approx(-0.4)


def test_the_table_sets_what_was_predicted_beside_what_happened() -> None:
    fell, rose = history(*[0.5] * 5, *[0.1] * 5), history(*[0.5] * 5, *[0.7] * 5, accuracy=0.5)
    found = comparison({"0.5": {Rule("always"): [fell, rose], Rule("paper", 0.6): [rose]}})
    head, _, always, paper = found.table().splitlines()
    assert head.startswith("| start | penalty | predicted | went | rest points | small print: zooms, first → last |")
    assert always.startswith("| 0.5 | always | ↓ (-0.")
    assert "| ↓↑ | 0.00 | 50 % → 40 % (10–70) | 75 % (50–100) | 50 % |" in always
    assert paper.startswith("| 0.5 | paper, θ = 0.6 | ↑ (+0.")
    assert found.agreement() == (2, 3)
    assert list(found.panels()) == ["small print, from a share of 0.5"]


def test_the_rule_is_told_for_every_start_source_and_threshold() -> None:
    runs = {"0.8": {Rule("paper", 0.2): [history(0.8)], Rule("off"): [history(0.8)]}}
    lines = comparison(runs, share=0.81, pages={"large print": [(1.0, 1.0), (0.5, 1.0)]}).swap_table().splitlines()
    assert lines[0].endswith("| right directly | right after a zoom | swap at θ = 0.2 |")
    assert lines[2] == "| 0.8 | large print | 0.81 | 75% | 100% | 0.75 |"


def test_rest_points_are_looked_for_over_mixtures_with_the_easiest_source() -> None:
    found = comparison({"0.5": {Rule("always"): [history(0.5)]}}, pages=EASY_AND_HARD)
    head, _, always = found.mixture_table((0.0, 1.0)).splitlines()
    assert head == "| rest points, with large print: | 0% | 100% |"
    assert always == "| always | 1.00 | 0.00 |"
    assert comparison({"0.5": {Rule("always"): [history(0.5)]}}).mixture_table() == ""


# ------------------------------------------------------------------------------------------------ the command


def test_a_run_whose_last_state_was_cut_off_is_not_finished(tmp_path: Path) -> None:
    state = tmp_path / "trainer_state.json"
    assert not ablation.finished(tmp_path)
    state.write_text('{"global_step": 3, "max_steps": 3}')
    assert ablation.finished(tmp_path)
    state.write_text('{"global_step": 3, "max')
    assert not ablation.finished(tmp_path)


def test_runs_are_made_once_from_every_start_and_laid_side_by_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tmp_path / "mine"
    shutil.copytree(checkpoint_path("base"), policy)
    out = tmp_path / "out"
    small = ["--max_steps", "1", "--per_device_train_batch_size", "4", "--num_generations", "2", "--pages", "4"]
    command = ["--config", str(RECIPE), "--out", str(out), "--penalties", "paper=0.3", "--seeds", "1", *small]
    command += ["--starts", "0.7", str(policy), "--jobs", "2"]
    ablation.main(command)
    printed = capsys.readouterr().out
    assert "| 0.7 | paper, θ = 0.3 |" in printed
    assert "| mine | paper, θ = 0.3 |" in printed
    assert "2 of 2 runs are finished." in printed
    settings = json.loads((out / "paper-0.3-from-0.7-1" / "run.json").read_text())
    assert (settings["penalty"], settings["threshold"], settings["seed"]) == ("paper", 0.3, 1)
    assert settings["model_name_or_path"] == str(out / "start-0.7")
    assert {path.name for path in out.iterdir()} >= {"table.md", "summary.json", "zoomed.png", "start-0.7"}

    weights = out / "paper-0.3-from-mine-1" / "policy" / "model.safetensors"
    made = weights.stat().st_mtime_ns
    ablation.main(command)
    assert weights.stat().st_mtime_ns == made
    with pytest.raises(SystemExit) as caught:
        ablation.main([*command, "--learning_rate", "1"])
    assert caught.value.code == 1
    assert "holds a run with other settings" in capsys.readouterr().err

    # What another command is at is left to it.
    shutil.rmtree(out / "paper-0.3-from-0.7-1")
    (out / "paper-0.3-from-0.7-1").mkdir()
    with held(out / "paper-0.3-from-0.7-1" / "lock") as lock:
        assert lock is not None
        ablation.main(command)
    said = capsys.readouterr()
    assert "1 runs are still being made by another command" in said.err
    assert "1 of 2 runs are finished." in said.out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--config", "no-such.yaml"], "no-such.yaml: No such file"),
        (["--config", str(RECIPE), "--seed", "3"], "--seed is set for each run; use --seeds"),
        (["--config", str(RECIPE), "--threshold=0.3"], "--threshold=0.3 is set for each run; use --seeds"),
        (["--config", str(RECIPE), "--penalties", "sometimes"], "penalty 'sometimes': write one of"),
        (["--config", str(RECIPE), "--starts", "nowhere"], "--starts nowhere: neither a share between 0 and 1 nor"),
        (["--config", str(RECIPE), "--starts", "1.5"], "a start zooms with a probability between 0 and 1, not 1.5"),
        (["--config", str(RECIPE), "--jobs", "0"], "--jobs and --pages must be at least 1"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(
    given: list[str], said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        ablation.main([*given, "--out", str(tmp_path)])
    assert caught.value.code == 1
    assert said in capfd.readouterr().err


def test_a_run_that_fails_is_told_with_its_last_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    policy = tmp_path / "mine"
    shutil.copytree(checkpoint_path("base"), policy)
    given = ["--config", str(RECIPE), "--starts", str(policy), "--pages", "1", "--seeds", "0", "--penalties", "off"]
    with pytest.raises(SystemExit) as caught:
        ablation.main([*given, "--max_steps", "1", "--attn_implementation", "none", "--out", str(tmp_path / "out")])
    assert caught.value.code == 1
    assert "off-from-mine-0 ended with status 1: grpo: " in capfd.readouterr().err
