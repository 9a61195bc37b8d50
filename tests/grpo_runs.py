"""Short runs of the trainer on the bundled base policy, which zooms on about half of what it sees."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3VLForConditionalGeneration

from vtagent.graphs.zoom import create_zoom_agent
from vtagent.models.families import checkpoint_path
from vtagent.models.processor import VLProcessor
from vtagent.training.data import Example, RenderedPages
from vtagent.training.rewards import build_grader
from vtagent.training.rl.settings import GraphGRPOConfig
from vtagent.training.rl.trainer import GraphGRPOTrainer

# TRL and transformers call each other by names that are going out of use; nothing of ours does.
KNOWN_WARNINGS = (
    "ignore:`gradient_checkpointing` is deprecated:FutureWarning",
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning",
)


def settings(folder: Path, **given: Any) -> GraphGRPOConfig:
    """Two prompts of four rollouts a step, on a CPU."""
    chosen: dict[str, Any] = {
        "max_steps": 1,
        "num_generations": 4,
        "per_device_train_batch_size": 8,
        "max_completion_length": 48,
        "learning_rate": 1e-4,
        "loss_type": "grpo",
        "beta": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "activation_checkpointing": False,
        "disable_tqdm": True,
        "run_seconds": 120.0,
        **given,
    }
    return GraphGRPOConfig(str(folder), **chosen)


def base(name: str = "base") -> tuple[Any, VLProcessor]:
    """The bundled base policy, or another, in fp32, and its processor."""
    path = checkpoint_path(name)
    return Qwen3VLForConditionalGeneration.from_pretrained(path, dtype=torch.float32), VLProcessor.from_pretrained(path)


def trainer(
    folder: Path,
    *,
    examples: Any = None,
    grader: Any = None,
    build: Callable[..., Any] = create_zoom_agent,
    functions: Any = None,
    held_out: Any = (),
    save: Any = None,
    peft_config: Any = None,
    args: GraphGRPOConfig | None = None,
    **given: Any,
) -> GraphGRPOTrainer:
    """A trainer on fresh pages, graded by exact match."""
    model, processor = base()
    return GraphGRPOTrainer(
        model,
        args or settings(folder, **given),
        RenderedPages(16, seed=3) if examples is None else examples,
        processor,
        grader or build_grader("exact"),
        build=build,
        functions=functions,
        held_out=held_out,
        save=save,
        peft_config=peft_config,
    )


def parameters(run: GraphGRPOTrainer) -> dict[str, torch.Tensor]:
    """A copy of what is trained."""
    named = run.accelerator.unwrap_model(run.model).named_parameters()
    return {name: value.detach().clone() for name, value in named}


def generation(run: GraphGRPOTrainer, prompts: int = 2) -> dict[str, torch.Tensor]:
    """The rows that the trainer's loss sees, of one generation outside of a run."""
    rows = [{"prompt": "", "example": place} for place in range(prompts) for _ in range(run.num_generations)]
    run.model.train()
    return run._generate_and_score_completions(rows)


def logged(run: GraphGRPOTrainer, name: str) -> list[float]:
    """A metric at each logged step."""
    return [entry[name] for entry in run.state.log_history if name in entry]


def page(place: int = 0) -> Example:
    """One page with a question."""
    return RenderedPages(16, seed=3)[place]
