"""The settings of a reinforcement-learning run: everything in TRL's `GRPOConfig`, and what the graph adds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from trl import GRPOConfig

from vtagent.graphs.zoom import ZoomContext
from vtagent.training.command_line import setting
from vtagent.training.rewards import RewardSettings

Task = Literal["zoom", "general"]
TASKS: tuple[Task, ...] = get_args(Task)


@dataclass
class GraphGRPOConfig(GRPOConfig):  # type: ignore[misc]
    """Settings of `GraphGRPOTrainer`. `max_completion_length` limits each reply of the model, not their sum."""

    task: str = setting(
        "zoom", "zoom: a cheap look first, full resolution on request; general: full resolution at once, no tool."
    )
    scale: float = setting(0.5, "Share of both sides at which images are first shown (zoom).")
    max_zooms: int = setting(1, "Views that a run may ask for (zoom).")
    max_mistakes: int = setting(2, "Failed calls of a run that are allowed; one more forces the answer (zoom).")
    max_turns: int = setting(12, "Replies of a run, the forced one included (zoom).")
    max_calls: int = setting(32, "Calls of one reply that are run (zoom).")
    max_visual_tokens: int | None = setting(None, "Visual tokens in a conversation (zoom); none: no limit.")
    max_seconds: float | None = setting(
        None, "Seconds inside the graph's nodes after which the answer is forced (zoom). Rewards then depend on speed."
    )
    penalty: str = setting(
        "paper", "paper, paper-correct-only, reference, always, tokens or off; see training.rewards."
    )
    penalty_size: float = setting(
        0.1, "What the penalty takes off; with tokens, for as many visual tokens as full resolution takes."
    )
    threshold: float = setting(
        0.2, "Below this share of direct answers, zooming is free (paper, paper-correct-only, reference)."
    )
    format_reward: float = setting(0.5, "What a well-formed rollout earns.")
    refill_rounds: int = setting(
        0,
        "Rounds per step in which prompts whose rollouts all earned the same are replaced by others; each round tries "
        "twice as many as the one before.",
    )
    drop_same: bool = setting(
        False,
        "Leave groups whose rollouts all earned the same out of the loss and of its KL term. With "
        "loss_type grpo they still count in the mean over rows, so the loss is smaller if fewer rows are left.",
    )
    rescale_idle: bool = setting(
        False,
        "Multiply advantages by rows / rows that teach something, so that idle rows do not shrink the step.",
    )
    barren_share: float = setting(
        0.95, "Share of the groups of a generation that teach nothing from which the generation is barren."
    )
    barren_patience: int = setting(
        10, "Barren generations in a row that end the run. One whose rows have no verdict ends it at once. 0: never."
    )
    run_seconds: float = setting(600.0, "Seconds that a run may take.")
    concurrency: int = setting(256, "Number of concurrent runs on each process.")
    check_exactness: bool = setting(
        False, "Debug: stop if a sampled log-probability differs from the trainer's by more than 1e-4."
    )
    probe_steps: int = setting(0, "Steps between two measurements with the decision forced either way. 0: never.")
    evaluate_steps: int = setting(
        0, "Steps between two measurements on held-out questions; the best policy is kept in policy-best/. 0: never."
    )
    log_rollouts: bool = setting(True, "Write the rollouts of every logged step.")
    log_rollouts_keep: int = setting(0, "Logged steps whose rollouts are kept, the newest. 0: all.")

    bf16: bool | None = setting(
        False, "bfloat16 autocast, for an engine with weights of its own; without one, choose the weights' dtype."
    )
    mask_truncated_completions: bool = setting(
        True, "Leave runs with a reply at its token limit out of rewards and loss."
    )
    log_multimodal: bool = setting(False, "Log images to wandb or trackio.")
    vllm_importance_sampling_mode: str = setting(
        "token_truncate", "Correction for an engine that is not the trained model itself."
    )
    report_to: None | str | list[str] = setting(  # noqa: RUF036 - the argument parser takes the second
        "tensorboard", "Where metrics go: one or several services, or none."
    )

    @property
    def context(self) -> ZoomContext:
        """The settings of every run of the graph."""
        if self.task == "general":
            return ZoomContext(scale=1.0, max_zooms=0)
        return ZoomContext(
            scale=self.scale,
            max_zooms=self.max_zooms,
            max_mistakes=self.max_mistakes,
            max_turns=self.max_turns,
            max_calls=self.max_calls,
            max_visual_tokens=self.max_visual_tokens,
            max_seconds=self.max_seconds,
        )

    @property
    def rewards(self) -> RewardSettings:
        """What rollouts earn. Without a tool there is nothing to penalise."""
        return RewardSettings(
            penalty="off" if self.task == "general" else self.penalty,  # type: ignore[arg-type] # checked there
            penalty_size=self.penalty_size,
            threshold=self.threshold,
            format_reward=self.format_reward,
        )

    @property
    def batches_per_window(self) -> int:
        """Forward-backward passes per window; a window is what one generation batch takes."""
        return int(self.steps_per_generation) * int(self.num_iterations)

    @property
    def prompts_per_window(self) -> int:
        """Prompts per window, on all processes together."""
        return int(self.generation_batch_size) // int(self.num_generations)

    def steps(self, examples: int) -> int:
        """Optimizer steps of the run: `max_steps`, or what `num_train_epochs` passes over the examples take.

        Args:
            examples: Number of examples.
        """
        if self.max_steps > 0:
            return int(self.max_steps)
        windows = max(1, round(self.num_train_epochs * examples / self.prompts_per_window))
        return int(max(1, windows * self.batches_per_window // int(self.gradient_accumulation_steps)))
