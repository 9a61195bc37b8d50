"""The zoom agent as a tool of another agent: a question in, the answer and its evidence out.

The asking model need not see images. It names the images by their references, or asks about all images of the
conversation. It gets a few words of text, however many views the answer took.
"""

# No `from __future__ import annotations` here: LangChain evaluates the arguments' annotations anew in every call.

import asyncio
from typing import Any

from langchain_core.messages import HumanMessage, convert_to_messages
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, ToolException
from pydantic import Field

from vtagent.conversation import image_blocks, name_of
from vtagent.errors import ImageError
from vtagent.graphs.intake import is_lost, noted, referenced
from vtagent.graphs.state import ViewRecord, ZoomState
from vtagent.graphs.zoom import ZoomAgent
from vtagent.images import ImageStore
from vtagent.tools.conversation_tool import ConversationArguments, ConversationTool
from vtagent.views import View

__all__ = ["as_tool"]

DESCRIPTION = (
    "Ask a question about the images of this conversation. It is answered by a model that can see them and that looks "
    "closer where it must. Returns the answer, and where it was read."
)

LEFT_OUT = " Left out: images of this conversation that cannot be read or are no longer in the image store."


class Question(ConversationArguments):
    """What the asking model may say."""

    question: str = Field(description="One question, complete in itself: the answering model sees nothing else.")
    images: list[str] | None = Field(
        default=None,
        description="Which images, by their vtimg:// references; leave it out for all images of the conversation.",
    )


class LookTool(ConversationTool):
    """The tool; make one with `as_tool`."""

    name: str = "look"
    description: str = DESCRIPTION
    args_schema: Any = Question
    agent: Any = Field(exclude=True)

    def _run(self, config: RunnableConfig | None = None, **asked: Any) -> tuple[str, dict[str, Any]]:
        question, note = self._asked(**asked)
        return _told(self.agent.invoke(question, config, context=self.agent.builder.defaults), note)

    async def _arun(self, config: RunnableConfig | None = None, **asked: Any) -> tuple[str, dict[str, Any]]:
        question, note = await asyncio.to_thread(self._asked, **asked)
        return _told(await self.agent.ainvoke(question, config, context=self.agent.builder.defaults), note)

    @property
    def _store(self) -> ImageStore:
        store: ImageStore = self.agent.builder.store
        return store

    def _asked(
        self, question: str, images: list[str] | None = None, messages: Any = None
    ) -> tuple[dict[str, Any], str]:
        """The agent's input, and a note for the asking model beside the answer."""
        try:
            urls, note = (images, "") if images else self._all(messages)
            blocks: list[str | dict[Any, Any]] = [
                View.from_url(url, self._store).block() for url in dict.fromkeys(urls)
            ]
        except ImageError as error:
            raise ToolException(str(error)) from error
        if not blocks:
            raise ToolException(f"There is no image in this conversation to ask about.{note}")
        return {"messages": [HumanMessage([*blocks, {"type": "text", "text": question}])]}, note

    def _all(self, messages: Any) -> tuple[list[str], str]:
        """The references of the conversation's images, and a note if some cannot be shown."""
        store, fetch = self._store, self.agent.builder.fetch
        given = convert_to_messages(messages or [])
        readable = [noted(message, store, fetch) for message in given]
        found = [block for _, block in image_blocks(referenced(readable, store, fetch))]
        held = [View.from_block(block, store).ref.url for block in found if not is_lost(block, store)]
        whole = len(held) == len(found) and all(new is old for new, old in zip(readable, given, strict=True))
        return held, "" if whole else LEFT_OUT


def as_tool(agent: ZoomAgent, *, name: str = "look", description: str = DESCRIPTION) -> BaseTool:
    r"""Make a zoom agent a tool of another agent, such as a supervisor.

    Args:
        agent: Made with `create_zoom_agent`, or compiled from `build_zoom_graph`. Its own defaults hold, not the
            context of the asking agent.
        name: What the asking model calls the tool.
        description: What the asking model is told about it.

    Returns:
        A tool that takes `{"question": …, "images": [reference, …] | null}` and answers in words. Its artifact holds
        the agent's `answer`, `views`, `usage` and `stop`. A question that cannot be asked is answered with
        `status="error"` and the reason. A question about all images leaves out those that cannot be shown, and the
        answer says so.

    Example:
        >>> look = as_tool(create_zoom_agent(model))
        >>> look.invoke({"question": "What is the total?", "images": ["vtimg://sha256/…"]})
        '48.10\n\nSeen: image 1, whole, at 640 × 480; image 1, region [500, 0, 1000, 500], at 640 × 480.'
    """
    return LookTool(name=name, description=description, agent=agent)


def _told(state: ZoomState, note: str) -> tuple[str, dict[str, Any]]:
    """The tool's answer: text with evidence for the model, and the artifact for a program."""
    views = state["views"]
    names = list(dict.fromkeys(name_of(view["url"]) for view in views))
    seen = "; ".join(f"image {names.index(name_of(view['url'])) + 1}, {_where(view)}" for view in views)
    answer = state["answer"] or "No answer was found."
    forced = f" The looking was cut short: {state['stop']}." if state["stop"] not in (None, "max_zooms") else ""
    evidence = {key: state[key] for key in ("answer", "views", "usage", "stop")}
    return f"{answer}\n\nSeen: {seen}.{forced}{note}", evidence


def _where(view: ViewRecord) -> str:
    part = "whole" if view["region"] is None else f"region {view['region']}"
    return f"{part}, at {view['width']} × {view['height']}"
