"""What a training run tells its user and obeys: progress, alarms, and a stop that can be resumed."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vtagent.training.progress import Progress, StopRequest
from vtagent.training.rewards import RewardSettings
from vtagent.training.rl.alarms import Alarms

_log = logging.getLogger(__name__)

SHOWN = {
    "reward": "reward",
    "accuracy/all": "right",
    "zoom/all": "zooms",
    "visual_tokens/of_full": "tokens",
    "rollouts/failed": "failed",
    "rollouts/judge_failed": "judge failed",
    "rollouts/unscored": "unscored",
}
"""The metrics that are shown, and their names there."""


class ShowProgress(TrainerCallback):
    """Shows steps, the time left and the latest metrics on standard error, from the main process alone."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._first = 0
        self._latest = ""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin at the step that the run goes on from."""
        if not state.is_world_process_zero:
            return
        self._first = state.global_step
        if self._first:
            print(f"going on from step {self._first} of {state.max_steps}", file=sys.stderr, flush=True)
        self._bar = Progress(state.max_steps, done=self._first, unit="steps", title="training")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Remember the latest metrics."""
        found = {name: value for name in SHOWN if isinstance(value := (logs or {}).get(name), int | float)}
        if found:
            self._latest = "  ".join(f"{SHOWN[name]} {value:.2f}" for name, value in found.items())

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Count the step."""
        if self._bar is None:
            return
        self._bar.step(self._latest)
        if state.global_step == self._first + 1:  # a log tells at once that training works
            self._bar.refresh()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End the line."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class WatchDecision(TrainerCallback):
    """Logs the alarms of the run (`vtagent.training.rl.alarms`) as warnings, from the main process alone.

    Args:
        rewards: What rollouts earn.
    """

    def __init__(self, rewards: RewardSettings) -> None:
        self._rewards = rewards
        self._alarms: Alarms | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Read what a resumed run has logged, so that no alarm is raised again."""
        self._alarms = Alarms(self._rewards.penalty, self._rewards.threshold, state.max_steps)
        for entry in state.log_history:
            self._alarms.read(entry.get("step", 0), entry)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Read the latest metrics."""
        if self._alarms is None or not state.is_world_process_zero:
            return
        for line in self._alarms.read(state.global_step, logs or {}):
            _log.warning("%s", line)


class StopWhenAsked(TrainerCallback):
    """On the first interrupt (SIGINT, SIGTERM) a run saves at the next possible step and ends; the second one kills it.

    Args:
        accelerator: The accelerator of the run.
        batches: Forward-backward passes per generation batch. A checkpoint is possible only where one is used up.
    """

    def __init__(self, accelerator: Any, batches: int) -> None:
        self._accelerator, self._batches = accelerator, batches
        self._request: StopRequest | None = None
        self.asked = False
        """Whether any process was interrupted."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Install the signal handlers."""
        self._request = StopRequest()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Agree with the other processes, and stop where the run can be resumed."""
        if state.global_step * args.gradient_accumulation_steps % self._batches:
            return
        asked = self._request is not None and self._request.asked
        flag = torch.tensor(float(asked), device=self._accelerator.device)
        self.asked = bool(self._accelerator.reduce(flag, reduction="sum"))
        if self.asked:
            control.should_save = control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Restore the signal handlers."""
        if self._request is not None:
            self._request.withdraw()
