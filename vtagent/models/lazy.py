"""A `ChatVLM` that is loaded by its first call: a server starts at once, a graph can be built and drawn for nothing."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from pydantic import ConfigDict, Field, PrivateAttr

from vtagent.errors import ModelError
from vtagent.images import MemoryImageStore
from vtagent.models.chat import ChatVLM
from vtagent.models.families import checkpoint_path, family_by_name
from vtagent.visual_tokens import VisionSpec

try:  # at once: a factory that imports it takes most of a second
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError
except ModuleNotFoundError:  # who only asks a server need not have it
    try_to_load_from_cache = None  # type: ignore[assignment]

__all__ = ["LazyVLM", "sizes_of"]

_SIZES = "preprocessor_config.json"


class LazyVLM(BaseChatModel):
    """Stands for a checkpoint until somebody asks it something.

    Args:
        path: As for `ChatVLM.from_pretrained`.
        vision: The image sizes that the checkpoint sees; read from it, where it is on this machine, if absent.
        store: Where the images of messages are.
        options: Other arguments of `ChatVLM.from_pretrained`.
    """

    path: str
    vision: Any = Field(default_factory=lambda fields: sizes_of(fields["path"]), exclude=True, repr=False)
    store: Any = Field(default_factory=MemoryImageStore, exclude=True, repr=False)
    options: dict[str, Any] = Field(default_factory=dict, exclude=True, repr=False)
    resolves_images: bool = Field(default=True, init=False, repr=False)

    model_config = ConfigDict(arbitrary_types_allowed=True)

    _loaded: ChatVLM | None = PrivateAttr(default=None)
    _unfit: str = PrivateAttr(default="")  # why what was loaded cannot be used: loading it again would change nothing
    _lock: threading.Lock = PrivateAttr(default_factory=threading.Lock)

    def load(self) -> ChatVLM:
        """The model itself; the first call loads it, whoever comes meanwhile waits.

        Raises:
            ModelError: As `ChatVLM.from_pretrained`; or it sees other image sizes than were told.
        """
        with self._lock:
            if self._loaded is None and not self._unfit:
                model = ChatVLM.from_pretrained(self.path, store=self.store, **self.options)
                if model.vision == self.vision:
                    self._loaded = model
                else:
                    self._unfit = f"{self.path} sees {model.vision}; give LazyVLM this as its vision"
                    model.engine.close()
            if self._loaded is None:
                raise ModelError(self._unfit)
            return self._loaded

    def bind_tools(
        self, tools: Sequence[Mapping[str, Any] | type | Callable[..., Any] | BaseTool], **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """As `ChatVLM.bind_tools`."""
        return ChatVLM.bind_tools(self, tools, **kwargs)  # type: ignore[arg-type]

    @property
    def _llm_type(self) -> str:
        return "vtagent"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"path": self.path}

    def _resolve_model_profile(self) -> Any:
        return {"image_inputs": True, "image_tool_message": True, "tool_calling": True, "tool_choice": True}

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        return self.load()._generate(messages, stop, run_manager, **kwargs)

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        return await (await self._aload())._agenerate(messages, stop, run_manager, **kwargs)

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        yield from self.load()._stream(*args, **kwargs)

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        async for chunk in (await self._aload())._astream(*args, **kwargs):
            yield chunk

    async def _aload(self) -> ChatVLM:
        return await asyncio.to_thread(self.load) if self._loaded is None else self._loaded


def sizes_of(path: str) -> VisionSpec:
    """The image sizes that a checkpoint sees, from its own files or, where they are not here yet, from its name."""
    file = Path(checkpoint_path(path)) / _SIZES
    if not file.is_file() and (downloaded := _downloaded(path)) is not None:
        file = downloaded
    if not file.is_file():
        return family_by_name(path).vision
    found = json.loads(file.read_text(encoding="utf-8"))
    size = found.get("size") or {}
    return VisionSpec(
        patch_size=found["patch_size"],
        merge_size=found["merge_size"],
        min_pixels=size.get("shortest_edge") or found["min_pixels"],
        max_pixels=size.get("longest_edge") or found["max_pixels"],
    )


def _downloaded(path: str) -> Path | None:
    """The file with the sizes of a checkpoint of the hub, if that was downloaded before."""
    if try_to_load_from_cache is None:
        return None
    try:
        found = try_to_load_from_cache(path, _SIZES)
    except HFValidationError:  # not the id of a checkpoint
        return None
    return Path(found) if isinstance(found, str) else None
