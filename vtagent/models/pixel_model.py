"""`with_pixels`: makes any model turn image references into pixels below LangChain's callbacks.

A chat model becomes an object of a subclass of its own class, which shares the model's attributes: whoever asks
`isinstance(model, ChatAnthropic)` still finds it, and what the model counts or keeps stays in one place. A runnable
around chat models keeps its form; each chat model in it is changed.
"""

from __future__ import annotations

import asyncio
import base64
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable, RunnableBinding
from pydantic import Field

from vtagent.conversation import image_blocks
from vtagent.encoding import Encoding
from vtagent.eyes import Eyes, Vision, eyes_of
from vtagent.images import ImageStore
from vtagent.models.capabilities import reads_references
from vtagent.models.runnables import AnyModel, chat_models, mapped
from vtagent.views import View, ViewRenderer, asked_for, is_reference

_SHARED = ("__dict__", "__pydantic_extra__", "__pydantic_fields_set__", "__pydantic_private__")
"""The slots of a pydantic object; a pixel model has the same objects in them as the model that it was made of."""

_KEPT_BYTES = 64 * 2**20
_KEPT_RENDERERS = 4  # each keeps pixels

_GIVEN_PIXELS = "vtagent_given_pixels"


class Pixels:
    """Turns references in messages into content blocks with pixels, as each model sees them, and keeps the latest.

    Args:
        store: Where the images are.
        eyes: How models see: a function of the model, or what is known better of each than `eyes_of` knows.
        renderer: Renders views to pixels for models of its image sizes; share one so that views are rendered once.
    """

    def __init__(
        self,
        store: ImageStore,
        eyes: Callable[[Any], Eyes] | Eyes | Vision | None = None,
        *,
        renderer: ViewRenderer | None = None,
    ) -> None:
        self.store = store
        self._eyes = eyes
        self._lock = threading.Lock()
        self._renderers: dict[Vision, ViewRenderer] = {renderer.spec: renderer} if renderer else {}
        self._kept: OrderedDict[tuple[Any, ...], dict[str, Any]] = OrderedDict()
        self._bytes = 0

    def eyes_of(self, model: object) -> Eyes:
        """How a model sees.

        Args:
            model: A chat model, or a runnable in which none can be found.
        """
        given: Any = self._eyes
        found: Eyes = given(model) if callable(given) else eyes_of(model, override=given)
        return found

    def put_into(self, messages: Sequence[BaseMessage], eyes: Eyes) -> list[BaseMessage]:
        """The messages with pixels in place of references.

        Args:
            messages: Never modified.
            eyes: How the model sees that is sent them.
        """
        shown: list[BaseMessage] = []
        count = _images(messages)
        for message in messages:
            if isinstance(message.content, list) and any(is_reference(block) for block in message.content):
                content = [
                    self._pixels(block, eyes, count) if is_reference(block) else block for block in message.content
                ]
                message = message.model_copy(update={"content": content})
            shown.append(message)
        return shown

    def is_quick(self, messages: Sequence[BaseMessage], eyes: Eyes) -> bool:
        """Whether all pixels are kept, so that the event loop need not be left for them."""
        vision = eyes.vision_for(_images(messages))
        return all(_key(block, eyes, vision) in self._kept for _, block in image_blocks(messages))

    def encoded_size(self, url: str, eyes: Eyes, images: int) -> int:
        """Bytes of a view as it is sent.

        Args:
            url: The view's.
            eyes: How the model sees.
            images: How many images the request holds.
        """
        return _size(self._encoded({"type": "image", "url": url}, eyes, images))

    def _pixels(self, block: Any, eyes: Eyes, images: int) -> dict[str, Any]:
        pixels = self._encoded(block, eyes, images)
        if "cache_control" not in block:
            return pixels
        # A mark for the provider's cache stays. Only this form of a block takes it to Claude.
        mark = {"cache_control": block["cache_control"]}
        if pixels["type"] == "image":
            return {**pixels, **mark}
        head, _, data = pixels["image_url"]["url"].partition(";base64,")
        return {"type": "image", "base64": data, "mime_type": head.removeprefix("data:"), **mark}

    def _encoded(self, block: Any, eyes: Eyes, images: int) -> dict[str, Any]:
        vision = eyes.vision_for(images)
        key = _key(block, eyes, vision)
        with self._lock:
            if (kept := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                return kept
        view, most = View.from_block(block, self.store), eyes.limits.image_bytes
        encoding = Encoding(lossy=True, max_bytes=None if most is None else most * 3 // 4)
        image = self._renderer(vision).encode(view, encoding)
        encoded = base64.b64encode(image.data).decode("ascii")
        made: dict[str, Any] = eyes.block(encoded, image.mime_type, low=view.scale < 1, asked=asked_for(block))
        with self._lock:
            if key not in self._kept:
                self._bytes += _size(made)
            self._kept[key] = made
            while self._bytes > _KEPT_BYTES and len(self._kept) > 1:
                self._bytes -= _size(self._kept.popitem(last=False)[1])
        return made

    def _renderer(self, vision: Vision) -> ViewRenderer:
        """Renders views as a model sees them; kept, so that views are rendered once."""
        with self._lock:
            if (renderer := self._renderers.get(vision)) is None:
                if len(self._renderers) >= _KEPT_RENDERERS:
                    self._renderers.clear()
                renderer = self._renderers[vision] = ViewRenderer(self.store, vision)
            return renderer


def _images(messages: Sequence[BaseMessage]) -> int:
    return sum(1 for _ in image_blocks(messages))


def _key(block: Mapping[str, Any], eyes: Eyes, vision: Vision) -> tuple[Any, ...]:
    """All that decides what a block with pixels looks like; many images in one request change `vision`."""
    asked = tuple(sorted(asked_for(block).items()))
    return block["url"], vision, eyes.wire, eyes.low_setting, eyes.limits.image_bytes, asked


def _size(block: dict[str, Any]) -> int:
    """Bytes of a block with pixels."""
    return len(block["base64"] if block["type"] == "image" else block["image_url"]["url"])


class PixelModel:
    """What the subclass of a chat model's class adds to it. Objects are made by `with_pixels`, never by a constructor.

    Their slots `vtagent_pixels` and `vtagent_eyes` are empty if the model's own code made them.
    """

    @classmethod
    def over(
        cls, model: BaseChatModel, store: ImageStore, eyes: Eyes | Vision, *, renderer: ViewRenderer | None = None
    ) -> Any:
        """As `with_pixels`, with `Pixels(store, eyes, renderer=renderer)`."""
        return with_pixels(model, Pixels(store, eyes, renderer=renderer))

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


def _eyes_of(model: object) -> Eyes:
    eyes: Eyes = model.vtagent_eyes  # type: ignore[attr-defined]
    return eyes


def _shown(model: object, messages: list[BaseMessage]) -> list[BaseMessage]:
    pixels = _pixels_of(model)
    return messages if pixels is None else pixels.put_into(messages, _eyes_of(model))


async def _ashown(model: object, messages: list[BaseMessage]) -> list[BaseMessage]:
    pixels = _pixels_of(model)
    if pixels is None or pixels.is_quick(messages, _eyes_of(model)):
        return _shown(model, messages)
    return await asyncio.to_thread(pixels.put_into, messages, _eyes_of(model))


class _PixelInput(RunnableBinding[Any, Any]):
    """A runnable in which no chat model can be found: it is given pixels, which its callbacks then see."""

    pixels: Any = Field(exclude=True)
    eyes: Any = Field(exclude=True)

    def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
        return super().invoke(self.pixels.put_into(input, self.eyes), config, **kwargs)

    async def ainvoke(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
        shown = await asyncio.to_thread(self.pixels.put_into, input, self.eyes)
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
        return _PixelInput(bound=model, pixels=pixels, eyes=pixels.eyes_of(model))
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
    object.__setattr__(made, "vtagent_eyes", pixels.eyes_of(model))
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
    made: type[Any] = metaclass(
        kind.__name__, (*bases, kind), {**same, "__slots__": ("vtagent_pixels", "vtagent_eyes")}
    )
    return made
