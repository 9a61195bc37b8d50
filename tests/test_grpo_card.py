"""What a run writes beside its policy, and where it publishes it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.grpo_runs import KNOWN_WARNINGS
from tests.test_grpo_command import fails
from vtagent.errors import ModelError
from vtagent.training import grpo
from vtagent.training.rl.card import write_card
from vtagent.training.rl.publish import Hub

pytestmark = [pytest.mark.filterwarnings(warning) for warning in KNOWN_WARNINGS]

RUN = ["--model_name_or_path", "base", "--use_cpu", "true", "--max_steps", "1", "--save_strategy", "no"]
RUN += ["--num_generations", "2", "--per_device_train_batch_size", "4", "--report_to", "none"]
RUN += ["--activation_checkpointing", "false", "--max_completion_length", "48"]


def test_a_run_writes_the_card_of_its_policy_with_the_table_that_it_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grpo.main([*RUN, "--output_dir", str(tmp_path / "run"), "--evaluate_documents", "2"])
    card = (tmp_path / "run" / "policy" / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["pipeline_tag"] == "image-text-to-text"
    assert "base_model" not in head  # it is no model of the hub
    table = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| full | large print"))
    assert table in card
    assert f"--output_dir {tmp_path / 'run'} --evaluate_documents 2" in card
    assert "| `penalty` | paper |" in card


def test_a_card_names_a_model_of_the_hub_and_says_if_nothing_was_measured(tmp_path: Path) -> None:
    settings = {"model_name_or_path": "Qwen/Qwen3-VL-4B-Instruct", "data": "my.jsonl"}
    card = write_card(tmp_path, settings=settings, command=["--data", "my file.jsonl"], table=None).read_text()
    assert yaml.safe_load(card.split("---")[1])["base_model"] == "Qwen/Qwen3-VL-4B-Instruct"
    assert "--data 'my file.jsonl'" in card
    assert "Nothing was measured by the run" in card


def test_a_run_that_could_not_push_is_refused_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(self: object) -> dict[str, Any]:
        raise OSError("no route\nto the host")

    monkeypatch.setattr("huggingface_hub.HfApi.whoami", offline)
    said = fails(*RUN, "--output_dir", str(tmp_path / "run"), "--push_to_hub", "true", "--hub_model_id", "me/mine")
    assert "push_to_hub: the hub does not answer" in said
    assert f"`hf upload me/mine {tmp_path / 'run'}/policy`" in said
    assert not (tmp_path / "run").exists()


def test_the_policy_is_pushed_once_with_its_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed: list[tuple[str, list[str]]] = []

    def create(self: object, name: str, *, private: bool | None, exist_ok: bool) -> str:
        assert exist_ok
        return f"https://hub/{name}"

    def upload(self: object, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
        pushed.append((repo_id, sorted(path.name for path in Path(folder_path).iterdir())))

    monkeypatch.setattr("huggingface_hub.HfApi.whoami", lambda self: {"name": "me"})
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", create)
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", upload)
    grpo.main([*RUN, "--output_dir", str(tmp_path / "mine"), "--push_to_hub", "true"])
    [(name, files)] = pushed
    assert name == "me/mine"
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= set(files)
    assert json.loads((tmp_path / "mine" / "run.json").read_text())["push_to_hub"] is False


def test_an_upload_that_fails_says_how_to_try_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi.whoami", lambda self: {"name": "me"})

    def fail(self: object, *arguments: Any, **named: Any) -> None:
        raise OSError("gone")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", fail)
    args = SimpleNamespace(
        push_to_hub=True, hub_model_id=None, hub_token=None, hub_private_repo=True, output_dir="runs/a"
    )
    hub = Hub.of(args)
    assert args.push_to_hub is False
    with pytest.raises(ModelError, match=r"could not be pushed \(gone\): try `hf upload me/a "):
        hub.push(tmp_path)
