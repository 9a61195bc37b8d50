"""The weights of a policy under training as a plain checkpoint has them: shards gathered, adapters merged."""

from __future__ import annotations

from typing import Any

import torch


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
    merged = {_name(key): weight.detach().clone() for key, weight in plain.state_dict().items() if "lora_" not in key}
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


def _name(key: str) -> str:
    """A weight's name without PEFT's addition."""
    return key.replace(".base_layer.", ".")
