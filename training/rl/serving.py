"""Loads the trained weights into an engine that has weights of its own, such as a vLLM server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

from vtagent.models.engine import ReloadableEngine
from vtagent.models.vllm.weights import save_for_server
from vtagent.training.rl.weights import plain_model, whole_weights


def hand_over(engine: ReloadableEngine, model: Any, processor: Any, accelerator: Any, folder: Path) -> None:
    """Save the weights, load them into the server, and make every process accept only replies from them.

    All processes must call this together.

    Args:
        engine: This process's engine. The engines of all processes may share a server.
        model: The trained model, with its adapters.
        processor: The model's processor.
        accelerator: The run's.
        folder: The run's folder, which the server sees under the same path.

    Raises:
        ModelError: The server could not load the weights.
    """
    version: list[str | None] = [None]
    weights = whole_weights(model, accelerator)
    if accelerator.is_main_process:
        target = folder / "served"
        save_for_server(plain_model(accelerator.unwrap_model(model)), target, state_dict=weights)
        processor.save_pretrained(target)
        version[0] = engine.reload(target)
    broadcast_object_list(version)
    if not accelerator.is_main_process and version[0] is not None:
        engine.follow(version[0])
