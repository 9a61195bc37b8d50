"""Loads a checkpoint's model: on which devices, in which number format, and with what to say if that cannot be done."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageTextToText

from vtagent.errors import ModelError, one_line
from vtagent.models.families import family_of
from vtagent.models.local.memory import is_out_of_memory

_NEEDS = {
    "awq": ("gptqmodel", "accelerate"),
    "bitsandbytes": ("bitsandbytes", "accelerate"),
    "compressed-tensors": ("compressed_tensors",),
    "fp8": ("accelerate",),
    "gptq": ("gptqmodel", "optimum"),
    "torchao": ("torchao",),
}
"""By the `quant_method` of a checkpoint's config, the packages that read it."""


def load_config(path: str) -> Any:
    """The config of a checkpoint of a served family.

    Args:
        path: A folder or a hub id.

    Raises:
        ModelError: There is no checkpoint, or its family is not served.
    """
    try:
        config = AutoConfig.from_pretrained(path)
    except (OSError, ValueError, StrictDataclassError) as error:
        places = "give a checkpoint folder, a hub id, or a bundled policy's name"
        raise ModelError(f"no model at {path!r} ({places}): {one_line(error)}") from error
    family_of(config.model_type)
    return config


def load_model(path: str, config: Any, *, device: str | None, device_map: Any, dtype: torch.dtype | str | None) -> Any:
    """Load weights, straight to where they will be.

    Args:
        path: A folder or a hub id.
        config: The checkpoint's config.
        device: One device for all of it; None: see `default_device`.
        device_map: Several devices, as transformers takes it: "auto" spreads the layers over all GPUs.
        dtype: None: see `default_dtype`.

    Returns:
        The model, in evaluation mode.

    Raises:
        ModelError: The weights cannot be loaded, do not fit, or need a package that is not installed.
    """
    if device is not None and device_map is not None:
        raise ModelError("give either a device or a device_map")
    _check_packages(path, config, device_map)
    one = _device(device or default_device())
    if dtype is None:
        dtype = default_dtype(config, one)
    straight = device_map is None and one.type != "cpu" and find_spec("accelerate") is not None
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            path, dtype=dtype, attn_implementation="sdpa", device_map={"": one} if straight else device_map
        )
        if device_map is None and not straight:
            torch.nn.Module.to(model, one)
    except ImportError as error:
        raise ModelError(f"the weights at {path!r} need a package: {one_line(error)}") from _missing(error)
    except (OSError, ValueError, RuntimeError, MemoryError, SafetensorError) as error:
        advice = "; take a smaller or quantised checkpoint, or device_map='auto'" if is_out_of_memory(error) else ""
        raise ModelError(f"the weights at {path!r} cannot be loaded: {one_line(error)}{advice}") from error
    if any(weights.device.type == "meta" for weights in model.parameters()):
        raise ModelError(
            f"the weights at {path!r} do not fit into the devices' memory, and weights that stay on a disk are not "
            "served; take a smaller or quantised checkpoint"
        )
    return model.eval()


def default_device() -> str:
    """The device that weights go to: "cuda" or "mps" if there is one, else "cpu"."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def default_dtype(config: Any, device: torch.device) -> torch.dtype | str:
    """The number format that is fastest on a device without loss against the file.

    On a GPU it is bfloat16. On a CPU it is float32, except for weights that are stored in bfloat16, where the processor
    multiplies them in hardware (AMX); without that, bfloat16 takes three times as long as float32.

    Args:
        config: The checkpoint's config.
        device: The device.
    """
    if getattr(config, "quantization_config", None) is not None:
        return "auto"
    if device.type != "cpu":
        return torch.bfloat16
    stored = getattr(config, "dtype", None) or getattr(config.text_config, "dtype", None)
    return torch.bfloat16 if stored == torch.bfloat16 and multiplies_bfloat16() else torch.float32


def multiplies_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 matrices in hardware (AMX). Without that, float32 is faster."""
    return bool(torch.cpu._is_amx_tile_supported())


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelError(f"there is no device {name!r} here: {one_line(error)}") from error
    return device


def _check_packages(path: str, config: Any, device_map: Any) -> None:
    """Check what a checkpoint needs before gigabytes of it are read.

    Raises:
        ModelError: A package is missing. The cause says which, so that the command line exits as for a missing extra.
    """
    quantization = getattr(config, "quantization_config", None)
    if quantization is not None and not isinstance(quantization, dict):
        quantization = quantization.to_dict()
    method = str((quantization or {}).get("quant_method", ""))
    needed = _NEEDS.get(method, ()) + (("accelerate",) if device_map is not None else ())
    missing = [name for name in dict.fromkeys(needed) if find_spec(name) is None]
    if missing:
        packages = " ".join(name.replace("_", "-") for name in missing)
        why = f"is quantised with {method}" if method in _NEEDS else "is to be spread over devices"
        cause = ModuleNotFoundError(f"No module named {missing[0]!r}", name=missing[0])
        raise ModelError(f"the checkpoint {path!r} {why}, which needs: pip install {packages}") from cause


def _missing(error: ImportError) -> ModuleNotFoundError:
    """The error as what the command line knows as a missing package."""
    cause = ModuleNotFoundError(str(error), name=error.name)
    cause.__cause__ = error
    return cause
