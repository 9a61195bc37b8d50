"""Loads the engine of a `ChatVLM`, and finds what its fields say of the weights: their name and their identity.

Importing this needs no extra; what an engine needs is imported when one is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

from vtagent.errors import ModelError
from vtagent.hub import check_available
from vtagent.models.engine import Engine
from vtagent.models.families import checkpoint_path
from vtagent.models.identity import identity_of

__all__ = ["LoadedEngine", "load_checkpoint", "local_settings", "open_server", "recommended_sampling"]

_GREEDY = 1e-3
"""Temperatures up to this are written where greedy decoding is meant, as Qwen2.5-VL's 1e-6."""


@dataclass(frozen=True)
class LoadedEngine:
    """An engine that is ready, and what is known of its weights."""

    engine: Engine
    processor: Any
    """The checkpoint's `VLProcessor`."""
    name: str
    """A name for people."""
    identity: str
    """Tells the weights from all others."""
    recommended: Mapping[str, Any] = field(default_factory=dict)
    """The sampling that the checkpoint recommends, all four settings; empty if it recommends none."""


def local_settings(
    *, device: str | None = None, dtype: str | None = None, memory: float | None = None, max_rows: int | None = None
) -> dict[str, Any]:
    """Arguments of `ChatVLM.from_pretrained` from what the command line and a server's environment say.

    Args:
        device: A torch device, or "auto" for all GPUs.
        dtype: Name of a torch dtype.
        memory: Bound on KV and image features, in GiB.
        max_rows: Maximum replies under way together.
    """
    settings: dict[str, Any] = {}
    engine: dict[str, Any] = {}
    if device == "auto":
        engine["device_map"] = device
    elif device:
        settings["device"] = device
    if dtype:
        settings["dtype"] = dtype
    if memory is not None:
        engine["memory_bytes"] = int(memory * 2**30)
    if max_rows is not None:
        engine["max_rows"] = max_rows
    return {**settings, "engine_options": engine} if engine else settings


def load_checkpoint(path: str | PathLike[str], options: Mapping[str, Any]) -> LoadedEngine:
    """Load a checkpoint with transformers.

    Args:
        path: A folder, a hub id, or the name of a bundled policy.
        options: Of `TransformersEngine.from_pretrained`.

    Raises:
        ModelError: There is no usable checkpoint, or torch and transformers are not installed.
    """
    check_available(str(path))
    try:
        from vtagent.models.local.engine import TransformersEngine
    except ModuleNotFoundError as error:
        raise ModelError(f"local models need torch and transformers ({error}): pip install 'vtagent[local]'") from error
    engine = TransformersEngine.from_pretrained(path, **options)
    name = str(path).rstrip("/")
    is_hub_id = name.count("/") == 1 and not name.startswith((".", "/"))
    identity = identity_of(checkpoint_path(str(path)))
    short = name if is_hub_id else name.rpartition("/")[2]
    return LoadedEngine(engine, engine.processor, short, identity, recommended_sampling(engine.model.generation_config))


def recommended_sampling(config: Any) -> dict[str, Any]:
    """The sampling settings of a checkpoint's generation_config.json, as fields of `ChatVLM`.

    Args:
        config: transformers' `GenerationConfig`.

    Returns:
        All four settings, or nothing if the checkpoint recommends neither sampling nor a penalty.
    """
    penalty = config.repetition_penalty or 1.0
    if not config.do_sample:
        return {} if penalty == 1.0 else {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": penalty}
    temperature = 1.0 if config.temperature is None else float(config.temperature)
    return {
        "temperature": temperature if temperature > _GREEDY else 0.0,
        "top_p": 1.0 if config.top_p is None else float(config.top_p),
        "top_k": int(config.top_k or 0),
        "repetition_penalty": float(penalty),
    }


def open_server(url: str, processor: str | PathLike[str], options: Mapping[str, Any]) -> LoadedEngine:
    """Connect to a model that `vllm serve` has loaded.

    Args:
        url: The server's URL, with or without `/v1`.
        processor: The source of the served checkpoint's tokenizer and image processor.
        options: Of `VLLMEngine`.

    Raises:
        ModelError: There is no such server or processor, or a package that they need is not installed.
    """
    try:
        from vtagent.models.processor import VLProcessor
        from vtagent.models.vllm.engine import VLLMEngine
    except ModuleNotFoundError as error:
        raise ModelError(f"a server's processor is needed here ({error}): pip install 'vtagent[vllm]'") from error
    loaded = VLProcessor.from_pretrained(checkpoint_path(str(processor)))
    engine = VLLMEngine(url, loaded, **options)
    try:
        name = engine.served_model().name
    except ModelError:
        engine.close()
        raise
    return LoadedEngine(engine, loaded, name, f"{url}#{name}")
