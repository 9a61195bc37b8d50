"""Loads what a `ChatVLM` is made of: an engine in this process, or one that asks a vLLM server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

from vtagent.errors import ModelError
from vtagent.hub import check_available
from vtagent.models.engine import Engine
from vtagent.models.families import checkpoint_path
from vtagent.models.identity import identity_of


@dataclass(frozen=True)
class Loaded:
    """The fields of a `ChatVLM` that come from a checkpoint or a server, by their names."""

    engine: Engine
    processor: Any
    model: str
    """The name that the model reports."""
    checkpoint: str
    """Tells the weights from all others."""


def load_local(path: str | PathLike[str], *, device: str | None, dtype: Any) -> Loaded:
    """Load a checkpoint into this process.

    Args:
        path: A folder, a hub id, or the name of a bundled policy.
        device: A torch device; "cuda" if available, else "cpu", if absent.
        dtype: A torch dtype; bfloat16 on a GPU, float32 on a CPU, if absent.

    Raises:
        ModelError: There is no usable checkpoint, or torch and transformers are not installed.
    """
    check_available(str(path))
    try:
        from vtagent.models.local.engine import TransformersEngine
    except ModuleNotFoundError as error:
        raise ModelError(f"local models need torch and transformers ({error}): pip install 'vtagent[local]'") from error
    engine = TransformersEngine.from_pretrained(path, device=device, dtype=dtype)
    name = str(path).rstrip("/")
    is_hub_id = name.count("/") == 1 and not name.startswith((".", "/"))
    model = name if is_hub_id else name.rpartition("/")[2]
    return Loaded(engine, engine.processor, model, identity_of(checkpoint_path(str(path))))


def connect(url: str, processor: str | PathLike[str], engine_options: Mapping[str, Any]) -> Loaded:
    """Connect to a vLLM server.

    Args:
        url: The server's URL, with or without `/v1`.
        processor: The source of the served checkpoint's tokenizer and image processor.
        engine_options: Options of `VLLMEngine`.

    Raises:
        ModelError: There is no such server or processor, or a package that they need is not installed.
    """
    try:
        from vtagent.models.processor import VLProcessor
        from vtagent.models.vllm.engine import VLLMEngine
    except ModuleNotFoundError as error:
        raise ModelError(f"a server's processor is needed here ({error}): pip install 'vtagent[vllm]'") from error
    loaded = VLProcessor.from_pretrained(checkpoint_path(str(processor)))
    engine = VLLMEngine(url, loaded, **engine_options)
    try:
        name = engine.served_model().name
    except ModelError:
        engine.close()
        raise
    return Loaded(engine, loaded, name, f"{url}#{name}")
