"""Checkpoints that are written whole or not at all. A resumed run continues as if it had never stopped.

A checkpoint is written to a staging folder and then renamed, so a kill at any moment leaves the checkpoint before it.
It holds the step and the state of the optimizer and the schedule. Everything else follows from the seed and the step:
the order of the data (`order`) and what is sampled.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import GRPOTrainer

_STAGING = ".saving"


class WholeCheckpoints(GRPOTrainer):  # type: ignore[misc]
    """The part of `GraphGRPOTrainer` that writes and reads checkpoints."""

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
        if checkpoint is not None:  # TRL counts forward-backward passes from 0 again
            self._step = self.state.global_step * self.args.gradient_accumulation_steps

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write no model card: a checkpoint is not published."""


def checkpoints(folder: str | os.PathLike[str]) -> list[tuple[int, Path]]:
    """The checkpoints in the folder of a run.

    Args:
        folder: The output folder of the run.

    Returns:
        Step and folder of each checkpoint, in the order of steps.
    """
    found = []
    for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = path.name.rpartition("-")[2]
        if step.isdigit() and path.is_dir():
            found.append((int(step), path))
    return sorted(found)
