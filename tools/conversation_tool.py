"""What tools share that read the conversation: LangGraph injects its messages, and their errors are told in words."""

# No `from __future__ import annotations` here: LangChain evaluates the arguments' annotations anew in every call.

from typing import Annotated, Any, Literal

from langchain_core.tools import BaseTool
from langgraph.prebuilt import InjectedState
from pydantic import BaseModel, Field


class ConversationArguments(BaseModel):
    """The arguments that the model does not give."""

    messages: Annotated[Any, InjectedState("messages")] = Field(default=None, exclude=True)


class ConversationTool(BaseTool):
    """A tool that answers with content for the model and an artifact for the program."""

    response_format: Literal["content", "content_and_artifact"] = "content_and_artifact"
    handle_tool_error: bool | str | Any = True

    @property
    def _injected_args_keys(self) -> frozenset[str]:
        return frozenset({"messages"})  # keeps the conversation out of trace payloads
