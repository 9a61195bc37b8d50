"""`LazyVLM`: a `ChatVLM` whose weights are loaded on its first call, so that servers start and graphs build at once."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from pydantic import ConfigDict, Field, PrivateAttr

from vtagent._moved import old_attribute, renamed_arguments
from vtagent.errors import ModelError
from vtagent.images import default_store
from vtagent.models.call import count_tokens, tool_options
from vtagent.models.chat import ChatVLM
from vtagent.models.codec import Codec
from vtagent.models.delegating import DelegatingChat
from vtagent.models.families import checkpoint_path, family_by_name
from vtagent.models.identity import identity_of
from vtagent.visual_tokens import VisionSpec

try:  # at once: a factory that imports it takes most of a second
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError
except ModuleNotFoundError:  # who only asks a server need not have it
    try_to_load_from_cache = None  # type: ignore[assignment]

__all__ = ["LazyVLM", "sizes_of"]

_SIZES = "preprocessor_config.json"


class LazyVLM(DelegatingChat):
    """A chat model that loads its checkpoint when it is first called.

    Args:
        path: As for `ChatVLM.from_pretrained`.
        vision: The image sizes that the checkpoint sees; by default those of `sizes_of(path)`.
        image_store: The store that holds the images of messages; this process's own if absent.
        options: Other arguments of `ChatVLM.from_pretrained`.
    """

    path: str
    vision: Any = Field(default_factory=lambda fields: sizes_of(fields["path"]), exclude=True, repr=False)
    image_store: Any = Field(default_factory=default_store, exclude=True, repr=False)
    options: dict[str, Any] = Field(default_factory=dict, exclude=True, repr=False)
    resolves_images: bool = Field(default=True, init=False, repr=False)

    model_config = ConfigDict(arbitrary_types_allowed=True)

    _counting: tuple[Codec, VisionSpec] | None = PrivateAttr(default=None)
    _loaded: ChatVLM | None = PrivateAttr(default=None)
    _unfit: str = PrivateAttr(default="")  # why the checkpoint cannot be used; it is not loaded again
    _lock: threading.Lock = PrivateAttr(default_factory=threading.Lock)

    @renamed_arguments(store="image_store")
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)

    store = old_attribute("store", "image_store")

    def load(self) -> ChatVLM:
        """The loaded model. The first call loads it, and concurrent calls wait for that.

        Raises:
            ModelError: As `ChatVLM.from_pretrained`; or the checkpoint sees other image sizes than `vision`.
        """
        with self._lock:
            if self._loaded is None and not self._unfit:
                model = ChatVLM.from_pretrained(self.path, image_store=self.image_store, **self.options)
                if model.vision == self.vision:
                    self._loaded = model
                else:
                    self._unfit = f"{self.path} sees {model.vision}; give LazyVLM this as its vision"
                    model.engine.close()
            if self._loaded is None:
                raise ModelError(self._unfit)
            return self._loaded

    def get_token_ids(self, text: str) -> list[int]:
        """As `ChatVLM.get_token_ids`. It loads the tokenizer, not the weights.

        Args:
            text: The text.
        """
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        codec, _ = self._parts()
        return codec.encode(codec.defuse(text))

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """As `ChatVLM.get_num_tokens_from_messages`. It loads the tokenizer, not the weights.

        Args:
            messages: The conversation; an empty one counts 0.
            tools: The tools that are offered.

        Raises:
            ModelError: There is no checkpoint, or the model cannot be shown one of the messages.
            ImageError: The store does not know an image, or refuses it.
        """
        codec, vision = self._parts()
        images_first = self.options.get("images_first", ChatVLM.model_fields["images_first"].default)
        return count_tokens(
            messages, tools, codec=codec, vision=vision, store=self.image_store, images_first=images_first
        )

    def _parts(self) -> tuple[Codec, VisionSpec]:
        """What counts tokens: the checkpoint's tokenizer with its chat template, and its image sizes."""
        with self._lock:
            if self._counting is None:
                try:
                    from vtagent.models.processor import VLProcessor
                except ModuleNotFoundError as error:
                    raise ModelError(
                        f"local models need torch and transformers ({error}): pip install 'vtagent[local]'"
                    ) from error
                processor = VLProcessor.from_pretrained(checkpoint_path(self.path))
                self._counting = Codec(processor.tokenizer, processor.chat_template), processor.vision
            return self._counting

    def bind_tools(
        self,
        tools: Sequence[Mapping[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | bool | Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """As `ChatVLM.bind_tools`."""
        return self.bind(**tool_options(tools, tool_choice), **kwargs)

    @property
    def _llm_type(self) -> str:
        return "vtagent"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"path": self.path, "checkpoint": identity_of(checkpoint_path(self.path)), "options": self.options}

    def _resolve_model_profile(self) -> Any:
        return {"image_inputs": True, "image_tool_message": True, "tool_calling": True, "tool_choice": True}

    def _delegate(self, messages: list[BaseMessage]) -> tuple[BaseChatModel, list[BaseMessage]]:
        return self.load(), messages


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
