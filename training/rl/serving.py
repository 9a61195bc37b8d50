"""Hand the trained weights to an engine that has weights of its own, such as a vLLM server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

from vtagent.models.engine import ReloadableEngine
from vtagent.models.vllm.served_weights import save_for_server
from vtagent.training.rl.weights import plain_model, whole_weights


def hand_over(engine: ReloadableEngine, model: Any, processor: Any, accelerator: Any, folder: Path) -> None:
    """Write the weights where the server reads them, and have every process sample from them alone.

    Args:
        engine: Each process has its own; they may share a server.
        model: The trained model, adapters included.
        processor: Its processor.
        accelerator: Of the run.
        folder: The run's folder, which the server must see under the same path.
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
