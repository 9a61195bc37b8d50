"""The weights of a policy under training as a plain checkpoint has them: shards gathered, adapters merged.

`hand_over` loads them into an engine that has weights of its own, such as a vLLM server.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list

from vtagent.models.engine import ReloadableEngine
from vtagent.models.vllm.weights import save_for_server


def whole_weights(model: Any, accelerator: Any) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint of the policy. The model itself does not change by a bit.

    All processes must call this together, because sharded weights are gathered from them. With sharded weights, only
    the main process's result is complete.

    Args:
        model: The trained model, with its adapters.
        accelerator: The run's.

    Returns:
        By name, as a checkpoint names them: tensors in the shape and dtype of the model's own.
    """
    collected: dict[str, torch.Tensor] = accelerator.get_state_dict(model)
    unwrapped = accelerator.unwrap_model(model)
    plain = plain_model(unwrapped)
    if plain is unwrapped:
        return _once(plain, collected)
    # Unmerging subtracts what merging added, which rounds. So the weights below the adapters are restored from copies.
    below = {name: weight for name, weight in plain.named_parameters() if ".base_layer." in name}
    before = {name: weight.detach().clone() for name, weight in below.items()}
    unwrapped.merge_adapter()
    merged = {
        name.replace(".base_layer.", "."): weight.detach().clone()
        for name, weight in plain.state_dict().items()
        if "lora_" not in name
    }
    unwrapped.unmerge_adapter()
    with torch.no_grad():
        for name, weight in below.items():
            weight.copy_(before[name])
    return _once(plain, merged)


def plain_model(model: Any) -> Any:
    """The model without PEFT's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _once(plain: Any, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Leave out an output head that is tied to the embeddings; copies of both would be saved as two tensors.

    Args:
        plain: The model without PEFT's wrapper.
        weights: By name, tensors in the shape and dtype of the model's own.

    Returns:
        The same tensors, by the same names.
    """
    if plain.get_output_embeddings().weight is plain.get_input_embeddings().weight:
        return {name: weight for name, weight in weights.items() if not name.endswith("lm_head.weight")}
    return weights


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
