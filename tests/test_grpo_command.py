"""python -m training.grpo: settings from YAML and the command line, and one clear line for what cannot be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from tests.grpo_runs import KNOWN_WARNINGS
from vtagent.errors import SettingsError
from vtagent.models.families import checkpoint_path
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


def test_a_revision_is_that_of_processor_and_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    common = ["--output_dir", str(tmp_path), "--use_cpu", "true", "--max_steps", "1", "--save_strategy", "no"]
    common += ["--model_revision", "v2", "--model_name_or_path"]
    said = fails(*common, "base")
    assert "no model at" in said
    assert "in revision 'v2'" in said
    asked = []

    def fetched(name: str, *, revision: str) -> str:
        asked.append((name, revision))
        return str(tmp_path / "fetched")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    assert f"no Qwen tokenizer and image processor at '{tmp_path / 'fetched'}'" in fails(*common, "some/model")
    assert asked == [("some/model", "v2")]


@pytest.mark.parametrize("bits", ["4", "8"])
def test_a_quantised_model_is_refused(tmp_path: Path, bits: str) -> None:
    said = fails("--config", str(RECIPE), "--output_dir", str(tmp_path), f"--load_in_{bits}bit", "true")
    assert "load_in_8bit have no effect" in said


def test_a_policy_that_cannot_be_shown_the_pages_of_a_recipe_is_refused_in_a_line(tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(checkpoint_path("base"), old)
    settings = json.loads((old / "preprocessor_config.json").read_text())
    settings["size"]["longest_edge"] = 16 * 16 * 512  # the first edition's: a page takes 560 visual tokens
    (old / "preprocessor_config.json").write_text(json.dumps(settings))
    command = ["--config", "training/recipes/region.yaml", "--model_name_or_path", str(old), "--max_steps", "1"]
    with pytest.raises(SystemExit, match=r"cannot be shown pages of 448 × 320 pixels, as data 'pages' has them; start"):
        grpo.main([*command, "--output_dir", str(tmp_path / "run")])


def test_settings_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    common = ["--output_dir", str(tmp_path), "--use_cpu", "true", "--max_steps", "1", "--save_strategy", "no"]
    common += ["--model_name_or_path", str(tmp_path / "none"), "--data", "none.jsonl"]
    assert "sample at 1" in fails(*common, "--temperature", "0")


def test_a_group_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    assert "must be divisible by num_generations" in fails("--config", str(RECIPE), "--num_generations", "7")


def test_a_run_is_gone_on_with_under_its_own_settings_only(tmp_path: Path) -> None:
    grpo.remember({"learning_rate": 1e-4, "output_dir": "a"}, tmp_path, going_on=False)
    grpo.remember({"learning_rate": 1e-4, "output_dir": "b"}, tmp_path, going_on=True)
    with pytest.raises(SettingsError, match=r"other settings \(learning_rate: 0.0001, now 0.001\)"):
        grpo.remember({"learning_rate": 1e-3}, tmp_path, going_on=True)


def test_a_start_that_is_killed_leaves_the_settings_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grpo.remember({"learning_rate": 1e-4}, tmp_path, going_on=False)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            grpo.remember({"learning_rate": 1e-4, "drop_same": True}, tmp_path, going_on=True)
    assert json.loads((tmp_path / "run.json").read_text()) == {"learning_rate": 1e-4}
    (tmp_path / "run.json").write_text('{"learning_rate":')
    with pytest.raises(SettingsError, match=r"run\.json is not JSON; remove it, or name another --output_dir"):
        grpo.remember({"learning_rate": 1e-4}, tmp_path, going_on=True)


def test_a_run_goes_on_when_its_servers_have_moved_or_a_newer_version_knows_more_settings(tmp_path: Path) -> None:
    begun = {"learning_rate": 1e-4, "engine_url": "http://a:8000", "judge_url": "http://a:8001/v1"}
    grpo.remember(begun, tmp_path, going_on=False)
    (tmp_path / "run.json").write_text(json.dumps(begun))  # as versions wrote it that took the addresses for settings
    moved = {**begun, "engine_url": "http://b:8000", "judge_url": "http://b:8001/v1", "drop_same": False}
    grpo.remember(moved, tmp_path, going_on=True)


@pytest.mark.timeout(600)
def test_a_run_ends_with_a_policy_in_half_precision_a_table_and_curves_for_tensorboard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--model_name_or_path", "base", "--output_dir", str(tmp_path), "--max_steps", "1", "--save_steps", "1"]
    command += ["--num_generations", "2", "--per_device_train_batch_size", "2", "--max_completion_length", "48"]
    command += ["--use_cpu", "true", "--activation_checkpointing", "false", "--scale", "0.75"]
    grpo.main([*command, "--half_precision", "true", "--evaluate_documents", "1", "--logging_steps", "1"])
    weights = load_file(tmp_path / "policy" / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    assert weights.keys() == load_file(Path(checkpoint_path("base")) / "model.safetensors").keys()  # the tied head once
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
    (file,) = (tmp_path / "runs").rglob("events.*")
    events = EventAccumulator(str(file)).Reload()
    curves = {name.removeprefix("train/"): events.Scalars(name) for name in events.Tags()["scalars"]}
    source = json.loads((tmp_path / "rollouts" / "step-000001.jsonl").read_text().splitlines()[0])["source"]
    for name in (f"accuracy/{source}", "zoom/all", "visual_tokens/of_full", "visual_tokens/kept_of_full"):
        assert [event.step for event in curves[name]] == [1], name


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        grpo.main(["--help"])
    said = capsys.readouterr().out
    assert "python -m training.grpo --config training/recipes/tiny.yaml" in said
    assert "--penalty" in said
