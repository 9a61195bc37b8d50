"""The agents for a LangGraph server, as `langgraph.json` names them. The first run loads the model.

The environment sets what is served:

    VTAGENT_MODEL       base or zoom (bundled), a checkpoint's folder or hub id; default: zoom.
                        With VTAGENT_BASE_URL, a name that is served there
    VTAGENT_BASE_URL    an OpenAI-compatible server, used instead of a model on this machine
    VTAGENT_TIMEOUT     seconds that the server may stay silent before it is asked once more; default: 120
    VTAGENT_MAX_TOKENS  most tokens of one reply, its thought included; default: 8192, or the server's own limit
    VTAGENT_DEVICE      where a model on this machine runs, such as cuda:1; auto: over all GPUs; default: a GPU, if any
    VTAGENT_DTYPE       its number format: bfloat16, float16 or float32; default: what is fast on the device
    VTAGENT_MEMORY      GiB for its keys, values and image features; default: from what is free
    VTAGENT_MAX_ROWS    its most replies under way together; default: 128
    VTAGENT_IMAGES      the folder of the image store, shared by all workers; default: .vtagent/images

Each run may bring its own settings as its context: {"max_zooms": 2, "scale": 0.25, …}.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
from functools import lru_cache
from typing import Any

from langchain_core.language_models import BaseChatModel

from vtagent.errors import ModelError
from vtagent.eyes import eyes_of
from vtagent.graphs.document_qa import create_document_agent
from vtagent.graphs.document_qa.graph import DocumentAgent
from vtagent.graphs.zoom import ZoomAgent, create_zoom_agent
from vtagent.images import DirectoryImageStore
from vtagent.models.lazy import LazyVLM, sizes_of
from vtagent.models.loading import local_settings
from vtagent.visual_tokens import VisionSpec

__all__ = ["document_agent", "zoom_agent"]


async def zoom_agent() -> ZoomAgent:
    """The agent, the same one for every run of a server.

    Raises:
        ModelError: VTAGENT_BASE_URL is set and VTAGENT_MODEL is not, or a number is none.
    """
    return await asyncio.to_thread(_the_agent)


async def document_agent() -> DocumentAgent:
    """The agent for documents: the files that a message carries, and those of its thread.

    Raises:
        ModelError: As `zoom_agent`.
    """
    return await asyncio.to_thread(_the_document_agent)


_LOCAL = ("VTAGENT_DEVICE", "VTAGENT_DTYPE", "VTAGENT_MEMORY", "VTAGENT_MAX_ROWS")

_making = threading.Lock()


def _the_agent() -> ZoomAgent:
    names = ("VTAGENT_MODEL", "VTAGENT_BASE_URL", "VTAGENT_IMAGES", "VTAGENT_MAX_TOKENS", *_LOCAL)
    with _making:  # lru_cache does not lock: two first runs would make two agents and load two models
        return _agent(*(os.environ.get(name, "") for name in names))


def _the_document_agent() -> DocumentAgent:
    agent = _the_agent()
    with _making:
        return _documents(agent)


@lru_cache
def _documents(agent: ZoomAgent) -> DocumentAgent:
    builder = agent.builder
    return create_document_agent(builder.model, image_store=builder.store, eyes=builder.override)


@lru_cache
def _agent(model: str, base_url: str, images: str, max_tokens: str, *local: str) -> ZoomAgent:
    store = DirectoryImageStore(images or ".vtagent/images")
    limits = {"max_tokens": _whole("VTAGENT_MAX_TOKENS", max_tokens)} if max_tokens else {}
    if not base_url:
        return create_zoom_agent(LazyVLM(path=model or "zoom", image_store=store, options={**limits, **_local(*local)}))
    if not model:
        raise ModelError("VTAGENT_BASE_URL names a server; name one of its models with VTAGENT_MODEL")
    served = _served(model, base_url, **limits)
    # The checkpoint's own files know its sizes best; of a hosted model, the table of models does.
    checkpoint = isinstance(eyes_of(served, warn=False).vision, VisionSpec)
    return create_zoom_agent(served, image_store=store, vision=sizes_of(model) if checkpoint else None)


def _local(device: str, dtype: str, memory: str, max_rows: str) -> dict[str, Any]:
    """Arguments of `ChatVLM.from_pretrained` from the environment."""
    if dtype not in ("", "bfloat16", "float16", "float32"):
        raise ModelError(f"VTAGENT_DTYPE is {dtype!r}; it must be bfloat16, float16 or float32")
    try:
        size = float(memory) if memory else None
    except ValueError:
        size = 0.0
    if size is not None and not 0 < size < math.inf:
        raise ModelError(f"VTAGENT_MEMORY is {memory!r}; it must be a number of GiB above 0")
    rows = _whole("VTAGENT_MAX_ROWS", max_rows) if max_rows else None
    return local_settings(device=device, dtype=dtype, memory=size, max_rows=rows)


def _whole(name: str, text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise ModelError(f"{name} is {text!r}; it must be a whole number above 0")
    return int(text)


def _served(model: str, base_url: str, **limits: int) -> BaseChatModel:
    from vtagent.models.openai_server import served_vlm

    return served_vlm(model, base_url, float(os.environ.get("VTAGENT_TIMEOUT") or 120), **limits)


if _base_url := os.environ.get("VTAGENT_BASE_URL"):
    _served("any", _base_url)  # imports for about a second, at the start of the server instead of in a run
