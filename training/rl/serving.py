"""Hand the trained weights to an engine that has weights of its own, such as a vLLM server."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any, Protocol

from accelerate.utils import broadcast_object_list

from vtagent.models.engine import Engine
from vtagent.models.served_weights import save_for_server


class ServedEngine(Engine, Protocol):
    """An engine that loads checkpoints while it runs; `vtagent.models.vllm.VLLMEngine` is one."""

    def reload(self, path: str | PathLike[str], *, version: str | None = None) -> str:
        """Serve a checkpoint from now on; returns its version."""
        ...

    def follow(self, version: str) -> None:
        """Serve these weights from now on, which another process has loaded."""
        ...


def hand_over(engine: ServedEngine, model: Any, processor: Any, accelerator: Any, folder: Path) -> None:
    """Write the weights where the server reads them, and have every process sample from them alone.

    Args:
        engine: Each process has its own; they may share a server.
        model: The trained model, adapters included.
        processor: Its processor.
        accelerator: Of the run.
        folder: The run's folder, which the server must see under the same path.
    """
    version: list[str | None] = [None]
    weights = accelerator.get_state_dict(model)  # sharded weights are collected on all processes together
    if accelerator.is_main_process:
        plain = model.get_base_model() if hasattr(model, "get_base_model") else model
        if plain is not model:
            model.merge_adapter()
            weights = plain.state_dict()
        target = folder / "served"
        own = {_name(key): value for key, value in weights.items() if _own(key)}
        save_for_server(plain, target, state_dict=own)
        processor.save_pretrained(target)
        if plain is not model:
            model.unmerge_adapter()
        version[0] = engine.reload(target)
    broadcast_object_list(version)
    if not accelerator.is_main_process and version[0] is not None:
        engine.follow(version[0])


def _own(key: str) -> bool:
    """Whether a weight is the model's own, not an adapter's."""
    return "lora_" not in key


def _name(key: str) -> str:
    """A weight's name without what PEFT adds to it."""
    return key.replace(".base_layer.", ".")
