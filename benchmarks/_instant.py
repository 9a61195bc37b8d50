"""`Instant`: a chat model that computes nothing, so that what is measured is the work around its calls."""

from __future__ import annotations

from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.utils.function_calling import convert_to_openai_tool


class Instant(BaseChatModel):
    """Answers at once; a subclass writes `reply`."""

    @property
    def _llm_type(self) -> str:
        return "instant"

    def reply(self, messages: list[BaseMessage]) -> AIMessage:
        """Returns the reply to a conversation."""
        raise NotImplementedError

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        """Binds the tools as JSON schemas, as adapters for servers do."""
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self.reply(messages))])
