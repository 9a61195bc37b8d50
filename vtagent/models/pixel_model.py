"""`PixelModel`: a wrapper around any chat model that turns image references into pixels below LangChain's callbacks."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable, RunnableBinding
from pydantic import Field, PrivateAttr

from vtagent.conversation import image_blocks
from vtagent.encoding import Encoding
from vtagent.eyes import Eyes, Vision, eyes_of
from vtagent.images import ImageStore
from vtagent.models.delegating import DelegatingChat
from vtagent.views import View, ViewRenderer, asked_for, is_reference

_COPIED_FIELDS = (
    "cache",
    "callbacks",
    "custom_get_token_ids",
    "disable_streaming",
    "metadata",
    "output_version",
    "profile",
    "rate_limiter",
    "tags",
    "verbose",
)
"""What LangChain does around a call of a chat model; the wrapper does it in place of the inner model."""


class PixelModel(DelegatingChat):
    """Any chat model, wrapped so that it gets `data:` URLs in place of image references.

    Args:
        inner: The model.
        renderer: Renders views to pixels.
        eyes: How the model sees: the form of its content blocks, and its setting for low views.
        store: Where the images are.
    """

    inner: BaseChatModel = Field(exclude=True)
    renderer: Any = Field(exclude=True)
    eyes: Any = Field(exclude=True)
    store: Any = Field(exclude=True)

    _smaller: ViewRenderer | None = PrivateAttr(default=None)

    @classmethod
    def over(
        cls, model: BaseChatModel, store: ImageStore, eyes: Eyes | Vision, *, renderer: ViewRenderer | None = None
    ) -> PixelModel:
        """Wrap a model.

        Args:
            model: The model.
            store: Where the images are.
            eyes: How the model sees; of a `Vision` alone, the rest is looked up.
            renderer: Renders views to pixels as `eyes.vision` has them; share one so that views are rendered once. A
                new one by default.
        """
        if not isinstance(eyes, Eyes):
            eyes = eyes_of(model, override=eyes)
        kept = {name: getattr(model, name) for name in _COPIED_FIELDS}
        return cls(inner=model, store=store, eyes=eyes, renderer=renderer or ViewRenderer(store, eyes.vision), **kept)

    @property
    def _llm_type(self) -> str:
        return self.inner._llm_type

    @property
    def model_name(self) -> str | None:
        """The inner model's name, by which LangChain looks up what it can do."""
        return getattr(self.inner, "model_name", None) or getattr(self.inner, "model", None)

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        return self.inner._identifying_params

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        return self.inner._get_ls_params(stop=stop, **kwargs)

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[LanguageModelInput, AIMessage]:
        """Bind the tools as the inner model writes them.

        Args:
            tools: Anything that the inner model's `bind_tools` takes.
            kwargs: Other options of its `bind_tools`.

        Raises:
            TypeError: The inner model's `bind_tools` does not return a plain binding of itself.
        """
        bound = self.inner.bind_tools(tools, **kwargs)
        if not isinstance(bound, RunnableBinding) or bound.bound is not self.inner:
            raise TypeError(f"{type(self.inner).__name__}.bind_tools does not return a plain binding; wrap it yourself")
        return self.bind(**bound.kwargs)

    def _answering(self) -> BaseChatModel:
        return self.inner

    def _delegate(self, messages: list[BaseMessage]) -> tuple[BaseChatModel, list[BaseMessage]]:
        return self.inner, self._with_pixels(messages)

    def _with_pixels(self, messages: list[BaseMessage]) -> list[BaseMessage]:
        shown = []
        renderer = self._renderer_for(sum(1 for _ in image_blocks(messages)))
        for message in messages:
            if isinstance(message.content, list) and any(is_reference(block) for block in message.content):
                content = [self._pixels(block, renderer) if is_reference(block) else block for block in message.content]
                message = message.model_copy(update={"content": content})
            shown.append(message)
        return shown

    def _renderer_for(self, images: int) -> ViewRenderer:
        """The renderer for a request with this many images: many of them may lower the longest side of each."""
        renderer: ViewRenderer = self.renderer
        vision: Vision = self.eyes.vision_for(images)
        if vision == renderer.spec:
            return renderer
        if self._smaller is None or self._smaller.spec != vision:
            self._smaller = ViewRenderer(self.store, vision)
        return self._smaller

    def _pixels(self, block: Any, renderer: ViewRenderer) -> dict[str, Any]:
        view, eyes = View.from_block(block, self.store), self.eyes
        most = eyes.limits.image_bytes
        image = renderer.encode(view, Encoding(lossy=True, max_bytes=None if most is None else most * 3 // 4))
        encoded = base64.b64encode(image.data).decode("ascii")
        shown: dict[str, Any] = eyes.block(encoded, image.mime_type, low=view.scale < 1, asked=asked_for(block))
        return shown
