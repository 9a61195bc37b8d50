"""python -m training.grpo: settings from YAML and the command line, and one clear line for what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.grpo_runs import KNOWN_WARNINGS
from vtagent.errors import SettingsError
from vtagent.models.families import resolve
from vtagent.training import grpo
from vtagent.training.rl.guards import check_settings

pytestmark = [pytest.mark.filterwarnings(warning) for warning in KNOWN_WARNINGS]

RECIPE = Path(grpo.__file__).parent / "recipes" / "tiny.yaml"


def fails(*arguments: str) -> str:
    """The one line that the command ends with."""
    with pytest.raises(SystemExit) as caught:
        grpo.main(list(arguments))
    said = str(caught.value)
    assert said.startswith("grpo: ")
    assert "\n" not in said
    return said


def test_the_command_line_has_the_last_word_over_the_recipe(tmp_path: Path) -> None:
    run, args, model = grpo.parse(
        ["--config", str(RECIPE), "--penalty", "always", "--output_dir", str(tmp_path), "--report_to", "none"]
    )
    assert (args.penalty, args.num_generations, args.report_to) == ("always", 8, [])
    assert (model.model_name_or_path, run.data, run.half_precision) == ("base", "rendered", True)


def test_the_tiny_recipe_passes_its_own_checks() -> None:
    _, args, _ = grpo.parse(["--config", str(RECIPE)])
    check_settings(args, examples=args.prompts_per_window, external_engine=False)
    assert args.report_to == ["tensorboard"]


def test_a_setting_that_does_not_exist_is_named(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("output_dir: x\nlearning_rat: 1\n")
    assert "learning_rat" in fails("--config", str(recipe))
    assert "no-such.yaml: No such file" in fails("--config", str(tmp_path / "no-such.yaml"))


def test_a_model_that_does_not_exist_is_named(tmp_path: Path) -> None:
    common = ["--output_dir", str(tmp_path), "--use_cpu", "true", "--max_steps", "1", "--save_strategy", "no"]
    assert "no Qwen tokenizer and image processor at" in fails(*common, "--model_name_or_path", str(tmp_path / "none"))
    assert "give a model to start from" in fails(*common)


def test_a_group_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    assert "must be divisible by num_generations" in fails("--config", str(RECIPE), "--num_generations", "7")


def test_a_run_is_gone_on_with_under_its_own_settings_only(tmp_path: Path) -> None:
    grpo.remember({"learning_rate": 1e-4, "output_dir": "a"}, tmp_path, going_on=False)
    grpo.remember({"learning_rate": 1e-4, "output_dir": "b"}, tmp_path, going_on=True)
    with pytest.raises(SettingsError, match=r"other settings \(learning_rate: 0.0001, now 0.001\)"):
        grpo.remember({"learning_rate": 1e-3}, tmp_path, going_on=True)


def test_a_run_goes_on_when_its_servers_have_moved_or_a_newer_version_knows_more_settings(tmp_path: Path) -> None:
    begun = {"learning_rate": 1e-4, "engine_url": "http://a:8000", "judge_url": "http://a:8001/v1"}
    grpo.remember(begun, tmp_path, going_on=False)
    (tmp_path / "run.json").write_text(json.dumps(begun))  # as versions wrote it that took the addresses for settings
    moved = {**begun, "engine_url": "http://b:8000", "judge_url": "http://b:8001/v1", "drop_same": False}
    grpo.remember(moved, tmp_path, going_on=True)


@pytest.mark.timeout(600)
def test_a_run_ends_with_a_policy_in_half_precision_and_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--model_name_or_path", "base", "--output_dir", str(tmp_path), "--max_steps", "1", "--save_steps", "1"]
    command += ["--num_generations", "2", "--per_device_train_batch_size", "2", "--max_completion_length", "48"]
    command += ["--use_cpu", "true", "--activation_checkpointing", "false", "--report_to", "none", "--scale", "0.75"]
    grpo.main([*command, "--half_precision", "true", "--evaluate_documents", "1", "--logging_steps", "1"])
    weights = load_file(tmp_path / "policy" / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    assert weights.keys() == load_file(Path(resolve("base")) / "model.safetensors").keys()  # the tied head once
    config = json.loads((tmp_path / "policy" / "config.json").read_text())
    assert config["dtype"] == "float16"
    assert "use_cache" not in config
    assert "| zoom | overall | 2 |" in capsys.readouterr().out
    summary = json.loads((tmp_path / "evaluation" / "summary.json").read_text())
    assert (summary["settings"]["scale"], summary["settings"]["max_zooms"]) == (0.75, 1)  # looked at as it was trained
    seen = {row["mode"]: row["visual_tokens"] for row in summary["rows"] if row["source"] == "overall"}
    assert (seen["full"], seen["quarter"]) == (140, 35)
    assert 35 < seen["forced-direct"] < 140
    assert (tmp_path / "evaluation" / "curves.png").exists()


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        grpo.main(["--help"])
    said = capsys.readouterr().out
    assert "python -m training.grpo --config training/recipes/tiny.yaml" in said
    assert "--penalty" in said
