"""python -m vtagent.training.ablation: the same training under several penalties, side by side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.grpo_runs import KNOWN_WARNINGS
from vtagent.training import ablation, grpo
from vtagent.training.ablation import over_seeds, smoothed, table, zoom_shares
from vtagent.training.measure.plots import Series

pytestmark = [pytest.mark.filterwarnings(warning) for warning in KNOWN_WARNINGS]

RECIPE = Path(grpo.__file__).parent / "recipes" / "tiny.yaml"


def history(*shares: float, accuracy: float = 1.0) -> list[dict[str, float]]:
    """A run that logged these shares of zooms, from step 1 on."""
    return [
        {"step": step, "zoom/small print": share, "zoom/all": 0.9}
        | {"accuracy/small print": accuracy, "visual_tokens/of_full": 0.5}
        for step, share in enumerate(shares, 1)
    ]


def test_smoothing_takes_the_steps_before_into_the_mean() -> None:
    assert smoothed(Series([1, 2, 3], [1.0, 0.0, 0.5]), window=2).y == [1.0, 0.5, 0.25]


def test_seeds_become_a_mean_with_a_band_where_all_of_them_are_known() -> None:
    both = over_seeds([Series([1, 2, 3], [0.0, 0.5, 1.0]), Series([1, 2], [1.0, 0.5])])
    assert both == Series([1, 2], [0.5, 0.5], [0.0, 0.5], [1.0, 0.5])


def test_shares_are_told_apart_by_source_and_the_whole_is_no_source() -> None:
    shares = zoom_shares({"off": [history(0.2), history(0.4)], "always": [history(0.0)]})
    assert list(shares) == ["small print"]
    assert {penalty: series.y for penalty, series in shares["small print"].items()} == {
        "off": [pytest.approx(0.3)],
        "always": [0.0],
    }


def test_the_table_shows_means_and_how_far_seeds_lie_apart() -> None:
    lines = table({"off": [history(0.5, 1.0), history(0.3, 1.0, accuracy=0.5)]}).splitlines()
    assert lines[0].startswith("| penalty | source | step 1 | step 2 | right at the end")
    assert lines[2] == "| off | small print | 40 % (30–50) | 70 % (65–75) | 75 % (50–100) | 50 % |"


def test_a_long_run_is_looked_at_at_five_steps_from_the_first_full_mean_to_the_end() -> None:
    head = table({"off": [history(*[0.0] * 61)]}).splitlines()[0]
    assert [cell.strip() for cell in head.split("|") if "step" in cell] == [f"step {n}" for n in (5, 19, 33, 47, 61)]


def test_a_run_whose_last_state_was_cut_off_is_not_finished(tmp_path: Path) -> None:
    state = tmp_path / "trainer_state.json"
    assert not ablation.finished(tmp_path)
    state.write_text('{"global_step": 3, "max_steps": 3}')
    assert ablation.finished(tmp_path)
    state.write_text('{"global_step": 3, "max')
    assert not ablation.finished(tmp_path)


def test_runs_are_made_once_and_laid_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--max_steps", "1", "--per_device_train_batch_size", "4", "--num_generations", "2", "--report_to", "none"]
    command = ["--config", str(RECIPE), "--out", str(tmp_path), "--penalties", "always", "--seeds", "1", *small]
    ablation.main(command)
    assert "| always | large print |" in capsys.readouterr().out
    run = tmp_path / "always-1"
    settings = json.loads((run / "run.json").read_text())
    assert (settings["penalty"], settings["seed"], settings["max_steps"]) == ("always", 1, 1)
    assert {path.name for path in tmp_path.iterdir()} >= {"table.md", "summary.json", "zoomed.png"}

    made = (run / "policy" / "model.safetensors").stat().st_mtime_ns
    ablation.main(command)
    assert (run / "policy" / "model.safetensors").stat().st_mtime_ns == made
    with pytest.raises(SystemExit) as caught:
        ablation.main([*command, "--learning_rate", "1"])
    assert caught.value.code == 1
    assert "holds a run with other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--config", "no-such.yaml"], "no-such.yaml: No such file"),
        (["--config", str(RECIPE), "--seed", "3"], "--seed is set for each run; use --seeds"),
        (["--config", str(RECIPE), "--num_generations", "7", "--seeds", "0"], "ended with status 1"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(
    given: list[str], said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        ablation.main([*given, "--out", str(tmp_path)])
    assert caught.value.code == 1
    assert said in capfd.readouterr().err
