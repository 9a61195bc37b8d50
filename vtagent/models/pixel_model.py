"""`with_pixels`: makes any model turn image references into pixels below LangChain's callbacks.

A chat model becomes an object of a subclass of its own class, which shares the model's attributes: whoever asks
`isinstance(model, ChatAnthropic)` still finds it, and what the model counts or keeps stays in one place. A runnable
around chat models keeps its form; each chat model in it is changed.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable, RunnableBinding
from pydantic import Field

from vtagent.images import ImageStore
from vtagent.models.capabilities import reads_references
from vtagent.models.runnables import AnyModel, chat_models, mapped
from vtagent.views import View, ViewRenderer, data_url, is_reference
from vtagent.visual_tokens import VisionSpec

_SHARED = ("__dict__", "__pydantic_extra__", "__pydantic_fields_set__", "__pydantic_private__")
"""The slots of a pydantic object; a pixel model has the same objects in them as the model that it was made of."""

_KEPT_BYTES = 64 * 2**20

_GIVEN_PIXELS = "vtagent_given_pixels"


class Pixels:
    """Turns references in messages into content blocks with pixels, and keeps the latest.

    Args:
        store: Where the images are.
        vision: The image sizes that the model sees.
        renderer: Renders views to pixels; share one so that views are rendered once. A new one by default.
    """

    def __init__(self, store: ImageStore, vision: VisionSpec, *, renderer: ViewRenderer | None = None) -> None:
        self.store = store
        self.renderer = renderer or ViewRenderer(store, vision)
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._bytes = 0

    def put_into(self, messages: Sequence[BaseMessage]) -> list[BaseMessage]:
        """The messages with pixels in place of references.

        Args:
            messages: Never modified.
        """
        shown: list[BaseMessage] = []
        for message in messages:
            if isinstance(message.content, list) and any(is_reference(block) for block in message.content):
                content = [self._pixels(block) if is_reference(block) else block for block in message.content]
                message = message.model_copy(update={"content": content})
            shown.append(message)
        return shown

    def is_quick(self, messages: Sequence[BaseMessage]) -> bool:
        """Whether all pixels are kept, so that the event loop need not be left for them."""
        return all(
            block["url"] in self._kept
            for message in messages
            if isinstance(message.content, list)
            for block in message.content
            if isinstance(block, dict) and is_reference(block)
        )

    def encoded_size(self, url: str) -> int:
        """Bytes of a view as it is sent.

        Args:
            url: The view's.
        """
        return _size(self._encoded({"type": "image", "url": url}))

    def _pixels(self, block: Any) -> dict[str, Any]:
        pixels = self._encoded(block)
        if "cache_control" not in block:
            return pixels
        # A mark for the provider's cache stays. Only this form of a block takes it to Claude.
        head, _, data = pixels["image_url"]["url"].partition(";base64,")
        mime_type = head.removeprefix("data:")
        return {"type": "image", "base64": data, "mime_type": mime_type, "cache_control": block["cache_control"]}

    def _encoded(self, block: Any) -> dict[str, Any]:
        with self._lock:
            if (kept := self._kept.get(block["url"])) is not None:
                self._kept.move_to_end(block["url"])
                return kept
        image = self.renderer.render(View.from_block(block, self.store))
        made: dict[str, Any] = {"type": "image_url", "image_url": {"url": data_url(image)}}
        with self._lock:
            if block["url"] not in self._kept:
                self._bytes += _size(made)
            self._kept[block["url"]] = made
            while self._bytes > _KEPT_BYTES and len(self._kept) > 1:
                self._bytes -= _size(self._kept.popitem(last=False)[1])
        return made


def _size(block: dict[str, Any]) -> int:
    """Bytes of a block with pixels."""
    return len(block["image_url"]["url"])


class PixelModel:
    """What the subclass of a chat model's class adds to it. Objects are made by `with_pixels`, never by a constructor.

    Their slot `vtagent_pixels` is empty if the model's own code made them.
    """

    @classmethod
    def over(
        cls, model: BaseChatModel, store: ImageStore, vision: VisionSpec, *, renderer: ViewRenderer | None = None
    ) -> Any:
        """As `with_pixels`, with `Pixels(store, vision, renderer=renderer)`."""
        return with_pixels(model, Pixels(store, vision, renderer=renderer))

    @property
    def _serialized(self) -> dict[str, Any]:
        return {**super()._serialized, _GIVEN_PIXELS: True}  # type: ignore[misc]

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[LanguageModelInput, AIMessage]:
        """As the model's own `bind_tools`. Whatever it returns, the model in it reads references.

        Args:
            tools: Anything that the model's `bind_tools` takes.
            kwargs: Other options of its `bind_tools`.
        """
        bound: Runnable[LanguageModelInput, AIMessage] = super().bind_tools(tools, **kwargs)  # type: ignore[misc]
        pixels = _pixels_of(self)
        return bound if pixels is None else with_pixels(bound, pixels)

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Any:
        return super()._generate(_shown(self, messages), *args, **kwargs)  # type: ignore[misc]

    async def _agenerate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Any:
        return await super()._agenerate(await _ashown(self, messages), *args, **kwargs)  # type: ignore[misc]


class _Streaming:
    """`_stream` of a model that has one; LangChain asks the class whether it has."""

    def _stream(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Iterator[Any]:
        yield from super()._stream(_shown(self, messages), *args, **kwargs)  # type: ignore[misc]


class _AsyncStreaming:
    """`_astream` of a model that has one."""

    async def _astream(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        async for chunk in super()._astream(await _ashown(self, messages), *args, **kwargs):  # type: ignore[misc]
            yield chunk


class _Events:
    """`_stream_chat_model_events` of a model that has one."""

    def _stream_chat_model_events(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Iterator[Any]:
        yield from super()._stream_chat_model_events(_shown(self, messages), *args, **kwargs)  # type: ignore[misc]


class _AsyncEvents:
    """`_astream_chat_model_events` of a model that has one."""

    async def _astream_chat_model_events(
        self, messages: list[BaseMessage], *args: Any, **kwargs: Any
    ) -> AsyncIterator[Any]:
        shown = await _ashown(self, messages)
        async for event in super()._astream_chat_model_events(shown, *args, **kwargs):  # type: ignore[misc]
            yield event


def is_given_pixels(serialized: Mapping[str, Any] | None) -> bool:
    """Whether what a callback is told of a model is that of one which is given pixels."""
    return bool(serialized and serialized.get(_GIVEN_PIXELS))


def _pixels_of(model: object) -> Pixels | None:
    pixels: Pixels | None = getattr(model, "vtagent_pixels", None)
    return pixels


def _shown(model: object, messages: list[BaseMessage]) -> list[BaseMessage]:
    pixels = _pixels_of(model)
    return messages if pixels is None else pixels.put_into(messages)


async def _ashown(model: object, messages: list[BaseMessage]) -> list[BaseMessage]:
    pixels = _pixels_of(model)
    if pixels is None or pixels.is_quick(messages):
        return _shown(model, messages)
    return await asyncio.to_thread(pixels.put_into, messages)


class _PixelInput(RunnableBinding[Any, Any]):
    """A runnable in which no chat model can be found: it is given pixels, which its callbacks then see."""

    pixels: Any = Field(exclude=True)

    def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
        return super().invoke(self.pixels.put_into(input), config, **kwargs)

    async def ainvoke(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
        shown = await asyncio.to_thread(self.pixels.put_into, input)
        return await super().ainvoke(shown, config, **kwargs)


def with_pixels(model: AnyModel, pixels: Pixels) -> Any:
    """The model, with pixels in place of references in what it sends. One that reads references itself stays as it is.

    Args:
        model: A chat model, or a runnable around chat models that was resolved. Never modified.
        pixels: Where the pixels come from.

    Returns:
        An object of a subclass of the model's class; for a runnable around chat models, one of the same kind. A
        runnable in which no chat model can be found gets pixels as its input, which its callbacks then see.
    """

    def reading(each: BaseChatModel) -> BaseChatModel:
        return each if reads_references(each) else _reading(each, pixels)

    if not chat_models(model):
        return _PixelInput(bound=model, pixels=pixels)
    return mapped(model, reading)


def _reading(model: BaseChatModel, pixels: Pixels) -> BaseChatModel:
    if isinstance(model, PixelModel):
        if _pixels_of(model) is pixels:
            return model
        kind: type[Any] = type(model)
    else:
        kind = _reading_class(type(model))
    made: BaseChatModel = object.__new__(kind)
    for name in _SHARED:
        object.__setattr__(made, name, getattr(model, name))
    object.__setattr__(made, "vtagent_pixels", pixels)
    return made


@cache
def _reading_class(kind: type[BaseChatModel]) -> type[Any]:
    """The subclass of a chat model's class that reads references, under the same name."""
    bases: list[type] = [PixelModel]
    if kind._stream is not BaseChatModel._stream:
        bases.append(_Streaming)
    if kind._astream is not BaseChatModel._astream:
        bases.append(_AsyncStreaming)
    if getattr(kind, "_stream_chat_model_events", None) is not None:
        bases.append(_Events)
    if getattr(kind, "_astream_chat_model_events", None) is not None:
        bases.append(_AsyncEvents)
    same = {name: getattr(kind, name) for name in ("__module__", "__qualname__", "__doc__")}
    # Pixels belong to one graph; attributes are shared with the model, which other graphs may use. Hence a slot.
    metaclass: Any = type(kind)
    made: type[Any] = metaclass(kind.__name__, (*bases, kind), {**same, "__slots__": ("vtagent_pixels",)})
    return made
