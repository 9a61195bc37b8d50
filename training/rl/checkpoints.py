"""Checkpoints that are whole or not there, and that a run goes on from as if it had never stopped.

A checkpoint is written in a folder of its own and then renamed, so being killed at any moment leaves the one before.
With the step it was written at, everything else follows: the order of the data (`order`) and what is sampled are
functions of the seed and of the step, and the optimizer's and the schedule's state are in the checkpoint.
"""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import GRPOTrainer

_STAGING = ".saving"


class WholeCheckpoints(GRPOTrainer):  # type: ignore[misc]
    """How `GraphGRPOTrainer` writes and reads checkpoints."""

    _saving = False

    def _get_output_dir(self, trial: Any) -> str:
        folder: str = super()._get_output_dir(trial)
        return os.path.join(folder, _STAGING) if self._saving else folder

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(super()._get_output_dir(trial))
        staging, name = folder / _STAGING, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.accelerator.is_main_process:
            shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._saving = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._saving = False
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            shutil.rmtree(folder / name, ignore_errors=True)
            (staging / name).replace(folder / name)
            shutil.rmtree(staging, ignore_errors=True)
            self._forget_old(folder)
        self.accelerator.wait_for_everyone()

    def _forget_old(self, folder: Path) -> None:
        if limit := self.args.save_total_limit:
            for _, old in checkpoints(folder)[:-limit]:
                shutil.rmtree(old, ignore_errors=True)

    def _load_optimizer_and_scheduler(self, checkpoint: Any) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:  # TRL counts its forward-backward passes from 0 again
            self._step = self.state.global_step * self.args.gradient_accumulation_steps

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None: a checkpoint is not published."""


def checkpoints(folder: str | os.PathLike[str]) -> list[tuple[int, Path]]:
    """The checkpoints of a run, by step."""
    found = []
    for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = path.name.rpartition("-")[2]
        if step.isdigit() and path.is_dir():
            found.append((int(step), path))
    return sorted(found)


class StopWhenAsked(TrainerCallback):
    """On the first interrupt (SIGINT, SIGTERM) a run saves where that is possible and ends; a second one kills it.

    Args:
        accelerator: Of the run.
        batches: Forward-backward passes of one generation: a checkpoint is possible where it is used up.
    """

    def __init__(self, accelerator: Any, batches: int) -> None:
        self._accelerator, self._batches = accelerator, batches
        self._before: dict[int, Any] = {}
        self.asked = False
        """Somebody has: on whichever process."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Listen."""
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Agree with the other processes, and stop where a checkpoint can be gone on from."""
        if state.global_step * args.gradient_accumulation_steps % self._batches:
            return
        flag = torch.tensor(float(self.asked), device=self._accelerator.device)
        self.asked = bool(self._accelerator.reduce(flag, reduction="sum"))
        if self.asked:
            control.should_save = control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave interrupts to whom they belonged before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        signal.signal(number, signal.SIG_DFL)
