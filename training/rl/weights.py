"""The weights of a policy under training, whole and as any checkpoint has them: shards collected, adapters merged."""

from __future__ import annotations

from typing import Any

import torch


def whole_weights(model: Any, accelerator: Any) -> dict[str, torch.Tensor]:
    """What a checkpoint of the policy holds, by name; the model itself stays as it is, to the bit.

    All processes must call this together: sharded weights are collected from them. Where they are sharded, only the
    main process's result is whole.

    Args:
        model: The trained model, adapters included.
        accelerator: Of the run.
    """
    collected: dict[str, torch.Tensor] = accelerator.get_state_dict(model)
    unwrapped = accelerator.unwrap_model(model)
    plain = plain_model(unwrapped)
    if plain is unwrapped:
        return _once(plain, collected)
    # Unmerging subtracts what merging added, which rounds: the weights below the adapters are put back instead.
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
    """Without the output head where it is the embeddings: copies of the two would be written as two."""
    if plain.get_output_embeddings().weight is plain.get_input_embeddings().weight:
        return {name: weight for name, weight in weights.items() if not name.endswith("lm_head.weight")}
    return weights


def _name(key: str) -> str:
    """A weight's name without what PEFT adds to it."""
    return key.replace(".base_layer.", ".")
