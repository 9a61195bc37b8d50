"""A run that was stopped, whenever and however, goes on as if it had not been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import TrainerCallback

from tests.grpo_runs import KNOWN_WARNINGS, parameters, trainer
from vtagent.training import grpo
from vtagent.training.durable import checkpoints
from vtagent.training.rl.callbacks import StopWhenAsked
from vtagent.training.rl.groups import GenerationBatch
from vtagent.training.rl.trainer import GraphGRPOTrainer

pytestmark = [pytest.mark.filterwarnings(warning) for warning in KNOWN_WARNINGS]


class InterruptedIn(TrainerCallback):
    """Somebody presses Ctrl-C during a step."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self._step:
            os.kill(os.getpid(), signal.SIGINT)


ONE_STEP: dict[str, Any] = {"per_device_train_batch_size": 4, "max_steps": 3}
TWO_STEPS: dict[str, Any] = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 4}
"""A generation is four batches, so two steps: of four batches' rows, or of two batches' that are gone through twice."""


@pytest.mark.parametrize(
    ("given", "interrupted", "stops"),
    [
        (ONE_STEP, 2, 2),
        ({**ONE_STEP, "adapters": True}, 2, 2),
        ({**TWO_STEPS, "steps_per_generation": 4}, 1, 2),
        ({**TWO_STEPS, "steps_per_generation": 2, "num_iterations": 2}, 1, 2),
    ],
)
def test_an_interrupted_run_goes_on_to_the_same_parameters(
    tmp_path: Path, given: dict[str, Any], interrupted: int, stops: int
) -> None:
    def made(name: str) -> GraphGRPOTrainer:
        torch.manual_seed(0)  # of the adapters
        common: dict[str, Any] = {
            "save_strategy": "steps",
            "save_steps": 100,
            "num_generations": 2,
            "logging_steps": stops,
        }
        own = {name: value for name, value in given.items() if name != "adapters"}
        adapters = LoraConfig(r=4, target_modules=r".*language_model.*(q_proj|v_proj)") if "adapters" in given else None
        return trainer(tmp_path / name, peft_config=adapters, learning_rate=1e-3, **common, **own)

    whole = made("whole")
    before = parameters(whole)
    whole.train()
    first = made("parts")
    first.add_callback(StopWhenAsked(first.accelerator, first.args.batches_per_window))
    first.add_callback(InterruptedIn(interrupted))
    first.train()
    ((step, checkpoint),) = checkpoints(tmp_path / "parts")
    assert step == first.state.global_step == stops
    second = made("parts")
    second.train(resume_from_checkpoint=str(checkpoint))
    assert second.state.global_step == given["max_steps"]
    written = [sorted((tmp_path / name / "rollouts").glob("*.jsonl")) for name in ("whole", "parts")]
    assert [path.name for path in written[0]] == [path.name for path in written[1]]
    assert [_sampled(path) for path in written[0]] == [_sampled(path) for path in written[1]]
    assert any(not value.equal(before[name]) for name, value in parameters(second).items())
    for name, value in parameters(second).items():
        torch.testing.assert_close(value, parameters(whole)[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("every", "names"), [(2, [1, 3]), (3, [1, 3]), (4, [1, 3]), (5, [1])])
def test_rollouts_are_written_where_a_step_that_uses_them_is_logged(
    tmp_path: Path, every: int, names: list[int]
) -> None:
    run = trainer(tmp_path, num_generations=2, steps_per_generation=4, logging_steps=every, **TWO_STEPS)
    for done in (0, 2):
        run.state.global_step = done
        run._report(GenerationBatch([], [], frozenset(), 0), [])
    assert sorted(path.name for path in (tmp_path / "rollouts").glob("*.jsonl")) == [
        f"step-{step:06d}.jsonl" for step in names
    ]


def _sampled(path: Path) -> list[Any]:
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


COMMAND = ["--model_name_or_path", "base", "--max_steps", "4", "--save_steps", "2", "--num_generations", "2"]
COMMAND += ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2", "--steps_per_generation", "2"]
COMMAND += ["--max_completion_length", "48", "--learning_rate", "1e-3", "--use_cpu", "true"]
COMMAND += ["--activation_checkpointing", "false", "--report_to", "none", "--logging_steps", "1"]

KILLED = """
import os, signal, sys
from vtagent.training import grpo
from vtagent.training.rl.trainer import GraphGRPOTrainer

passes, compute = [], GraphGRPOTrainer._compute_loss
def mortal(self, *arguments, **options):
    passes.append(self.state.global_step)
    if passes.count(3) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return compute(self, *arguments, **options)
GraphGRPOTrainer._compute_loss = mortal
grpo.main(sys.argv[1:])
"""
"""Dies in the fourth step, between its two backward passes, a step after the last checkpoint."""


@pytest.mark.timeout(900)
def test_the_same_command_goes_on_after_a_kill_in_mid_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, parts = ([*COMMAND, "--output_dir", str(tmp_path / name)] for name in ("whole", "parts"))
    killed = subprocess.run([sys.executable, "-c", KILLED, *parts], stderr=subprocess.DEVNULL, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [step for step, _ in checkpoints(tmp_path / "parts")] == [2]
    grpo.main(parts)
    assert "going on from step 2 of 4" in capsys.readouterr().err
    grpo.main(whole)
    steps = json.loads((tmp_path / "parts" / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in steps if "reward" in entry] == [1, 2, 3, 4]  # none is counted twice
    ours, theirs = (load_file(tmp_path / name / "policy" / "model.safetensors") for name in ("parts", "whole"))
    for name, value in theirs.items():  # … and none is trained on twice
        torch.testing.assert_close(ours[name], value, atol=1e-6, rtol=0)
    with pytest.raises(SystemExit, match="other settings \\(learning_rate"):
        grpo.main([*parts, "--learning_rate", "1e-4"])
