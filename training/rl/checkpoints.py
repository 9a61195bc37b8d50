"""Makes a resumed run continue as if it had never stopped: whole checkpoints, and an order of the data by step.

A checkpoint is written to a staging folder and then renamed, so a kill at any moment leaves the checkpoint before it.
It holds the step and the state of the optimizer and the schedule. Everything else follows from the seed and the step:
the order of the data (`Windows`) and what is sampled (`seed_of`).

A window is the stretch of the data that one generation batch takes.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch.utils.data import Sampler
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import GRPOTrainer

from vtagent.training.durable import checkpoints

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
            if limit := self.args.save_total_limit:
                for _, old in checkpoints(folder)[:-limit]:
                    shutil.rmtree(old, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def _load_optimizer_and_scheduler(self, checkpoint: Any) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:  # TRL counts forward-backward passes from 0 again
            self._step = self.state.global_step * self.args.gradient_accumulation_steps

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write no model card: a checkpoint is not published."""


class Windows(Sampler[int]):
    """The indices of a whole run, window after window, in the form that TRL's data loader takes.

    TRL's own sampler starts its first epoch again when a run is resumed. Here the run is one long epoch: it passes over
    the examples again and again, each time in another order, and is cut into windows. So a checkpoint needs to hold
    only its step.

    Args:
        examples: Number of examples.
        prompts: Prompts per window, on all processes together.
        rollouts: Rollouts per prompt.
        batches: Forward-backward passes per window. The indices of a window come once for each.
        windows: Number of windows in the run.
        shuffle: Whether the order is random.
        seed: The seed of the order.
    """

    def __init__(
        self, examples: int, *, prompts: int, rollouts: int, batches: int, windows: int, shuffle: bool, seed: int
    ) -> None:
        self.examples, self.prompts, self.rollouts = examples, prompts, rollouts
        self.batches, self.windows, self.shuffle, self.seed = batches, windows, shuffle, seed

    def __len__(self) -> int:
        return self.windows * self.batches * self.prompts * self.rollouts

    def __iter__(self) -> Iterator[int]:
        stream = self._stream()
        for _ in range(self.windows):
            window = [next(stream) for _ in range(self.prompts)]
            for _ in range(self.batches):
                for index in window:
                    yield from [index] * self.rollouts

    def _stream(self) -> Iterator[int]:
        """Endless indices: one pass over the examples after another. A window may span two passes."""
        number = 0
        while True:
            order = list(range(self.examples))
            if self.shuffle:
                random.Random(f"{self.seed}/order/{number}").shuffle(order)
            yield from order
            number += 1


def seed_of(*parts: object) -> int:
    """A seed of 48 bits that depends on what it is for, such as ("rollout", 7, window, place)."""
    return random.Random("/".join(map(str, parts))).getrandbits(48)
