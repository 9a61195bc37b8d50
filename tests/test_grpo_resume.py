"""A run that was stopped, whenever and however, goes on as if it had not been."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from tests.grpo_runs import KNOWN_WARNINGS, parameters, trainer
from vtagent.training import grpo
from vtagent.training.rl.checkpoints import StopWhenAsked, checkpoints

pytestmark = [pytest.mark.filterwarnings(warning) for warning in KNOWN_WARNINGS]


class InterruptedIn(TrainerCallback):  # type: ignore[misc]
    """Somebody presses Ctrl-C during a step."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self._step:
            os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupted_run_goes_on_to_the_same_parameters(tmp_path: Path) -> None:
    given: dict[str, Any] = {"max_steps": 3, "save_strategy": "steps", "save_steps": 100, "num_generations": 2}
    whole = trainer(tmp_path / "whole", per_device_train_batch_size=4, **given)
    whole.train()
    first = trainer(tmp_path / "parts", per_device_train_batch_size=4, **given)
    first.add_callback(StopWhenAsked(first.accelerator, 1))
    first.add_callback(InterruptedIn(2))
    first.train()
    ((step, checkpoint),) = checkpoints(tmp_path / "parts")
    assert step == first.state.global_step == 2
    second = trainer(tmp_path / "parts", per_device_train_batch_size=4, **given)
    second.train(resume_from_checkpoint=str(checkpoint))
    assert second.state.global_step == 3
    last = [(folder / "rollouts" / "step-000003.jsonl") for folder in (tmp_path / "whole", tmp_path / "parts")]
    assert _sampled(last[0]) == _sampled(last[1])
    for name, value in parameters(second).items():
        torch.testing.assert_close(value, parameters(whole)[name], atol=1e-6, rtol=0)


def _sampled(path: Path) -> list[Any]:
    import json

    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [[line["id"], line["advantage"], [turn["completion_ids"] for turn in line["turns"]]] for line in lines]


def test_being_killed_while_saving_leaves_no_broken_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer(tmp_path, save_strategy="steps", save_steps=1, save_total_limit=1, max_steps=2, num_generations=2)
    stock = type(run)._save_rng_state

    def dies(self: Any, folder: str) -> None:
        if run.state.global_step == 2:
            raise SystemExit("killed")
        stock(self, folder)

    monkeypatch.setattr(type(run), "_save_rng_state", dies)
    with pytest.raises(SystemExit):
        run.train()
    assert [step for step, _ in checkpoints(tmp_path)] == [1]


@pytest.mark.timeout(900)
def test_the_same_command_goes_on_after_a_kill(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--model_name_or_path", "base", "--output_dir", str(tmp_path), "--max_steps", "4", "--save_steps", "1"]
    command += ["--num_generations", "2", "--per_device_train_batch_size", "4", "--max_completion_length", "48"]
    command += ["--use_cpu", "true", "--activation_checkpointing", "false", "--report_to", "none"]
    process = subprocess.Popen([sys.executable, "-m", "vtagent.training.grpo", *command], stderr=subprocess.DEVNULL)
    while not checkpoints(tmp_path):
        assert process.poll() is None
        time.sleep(0.1)
    process.kill()
    process.wait()
    step = checkpoints(tmp_path)[-1][0]
    grpo.main(command)
    said = capsys.readouterr().err
    assert step == 4 or f"going on from step {step} of 4" in said
    assert checkpoints(tmp_path)[-1][0] == 4
    assert (tmp_path / "policy" / "model.safetensors").exists()
    with pytest.raises(SystemExit, match="other settings \\(learning_rate"):
        grpo.main([*command, "--learning_rate", "1e-3"])
