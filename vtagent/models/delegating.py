"""`DelegatingChat`: the base of chat models that pass every call on to another chat model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult


class DelegatingChat(BaseChatModel):
    """Passes every call on below LangChain's callbacks, so that they run once; a subclass writes `_delegate`."""

    def _delegate(self, messages: list[BaseMessage]) -> tuple[BaseChatModel, list[BaseMessage]]:
        """The model that answers, and the messages to show it. May block: async calls run it in a thread."""
        raise NotImplementedError

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        model, messages = self._delegate(messages)
        return model._generate(messages, stop, run_manager, **kwargs)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        model, messages = await asyncio.to_thread(self._delegate, messages)
        return await model._agenerate(messages, stop, run_manager, **kwargs)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        model, messages = self._delegate(messages)
        if type(model)._stream is BaseChatModel._stream:
            yield from _as_one_chunk(model._generate(messages, stop, run_manager, **kwargs))
        else:
            yield from model._stream(messages, stop, run_manager, **kwargs)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        model, messages = await asyncio.to_thread(self._delegate, messages)
        kind = type(model)
        if kind._stream is BaseChatModel._stream and kind._astream is BaseChatModel._astream:
            for chunk in _as_one_chunk(await model._agenerate(messages, stop, run_manager, **kwargs)):
                yield chunk
        else:
            async for chunk in model._astream(messages, stop, run_manager, **kwargs):
                yield chunk


def _as_one_chunk(result: ChatResult) -> Iterator[ChatGenerationChunk]:
    """The reply of a model that cannot stream, as a stream of one chunk."""
    for generation in result.generations[:1]:
        fields = generation.message.model_dump(exclude={"type"})
        yield ChatGenerationChunk(message=AIMessageChunk(**fields), generation_info=generation.generation_info)
