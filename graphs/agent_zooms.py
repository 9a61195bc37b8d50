"""What an agent's tools show: a zoom is granted or refused by the run's budgets, other tools' pictures are taken in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeAlias, cast

from langchain.agents.middleware.types import ToolCallRequest
from langchain_core.messages import BaseMessage, ToolMessage, convert_to_messages
from langchain_core.tools import BaseTool
from langgraph.types import Command

from vtagent.graphs.act import Ledger, without_pixels
from vtagent.graphs.in_sight import as_the_tool_sees
from vtagent.graphs.model_call import without_lost_images
from vtagent.graphs.observe import Fetch, referenced
from vtagent.graphs.state import ZoomContext, ZoomState, settings_of
from vtagent.graphs.tally import REFUSED, last_batch, looking_of, spent
from vtagent.images import ImageStore
from vtagent.visual_tokens import VisionSpec

Answer: TypeAlias = ToolMessage | Command[Any]


class Zooms:
    """Judges what tools answer; see `ZoomMiddleware` for the arguments."""

    def __init__(
        self,
        defaults: ZoomContext,
        *,
        zoom_tool: BaseTool,
        store: ImageStore,
        vision: VisionSpec,
        keep_images: int | None,
        fetch: Fetch | None,
    ) -> None:
        self.defaults, self.zoom_tool, self.store, self.vision = defaults, zoom_tool, store, vision
        self.keep_images, self.fetch = keep_images, fetch

    def in_sight(self, request: ToolCallRequest) -> ToolCallRequest:
        """A zoom's request, with the conversation as the zoom tool is to judge it."""
        state = {**request.state, "messages": self._seen(request)}
        changed: dict[str, Any] = {"state": state, "runtime": replace(request.runtime, state=state)}
        return request.override(**changed)

    def granted(self, request: ToolCallRequest, answer: Answer) -> Answer:
        """The answer to a zoom, unless the budgets are against it.

        The calls of one reply run side by side and share no memory, so each goes through those that stand before it
        once more: all come to the same account.
        """
        if isinstance(answer, Command):
            return answer
        settings = settings_of(request.runtime.context, self.defaults)
        looking, name = looking_of(request.state), self.zoom_tool.name
        ledger = Ledger(cast(ZoomState, looking), settings, name, self.store, self.vision)
        if stop := spent(looking["usage"], settings):
            text = f"There is no more to see: {stop} is reached. Answer from what you see."
            answer = ledger.mistake(text, name, answer.tool_call_id)
        else:
            for earlier in self._zooms_before(request):
                ledger.granted(earlier)
            answer = ledger.granted(answer)
        if answer.status == "error":
            answer = answer.model_copy(update={"artifact": REFUSED})
        request.runtime.stream_writer(ledger.events[-1])
        return answer

    def without_pixels(self, answer: Answer) -> Answer:
        """Another tool's answer, with references for its pictures."""
        if isinstance(answer, ToolMessage):
            return without_pixels(answer, self.store, self.fetch)
        if not isinstance(answer.update, Mapping) or not answer.update.get("messages"):
            return answer
        messages = [
            without_pixels(message, self.store, self.fetch) if isinstance(message, ToolMessage) else message
            for message in convert_to_messages(answer.update["messages"])
        ]
        return replace(answer, update={**answer.update, "messages": referenced(messages, self.store, self.fetch)})

    def _seen(self, request: ToolCallRequest) -> list[BaseMessage]:
        found = without_lost_images(request.state["messages"], self.store)
        return as_the_tool_sees(found, self.keep_images, self.store)

    def _zooms_before(self, request: ToolCallRequest) -> list[ToolMessage]:
        """What the zoom tool says to the calls that stand before this one in the same reply.

        A call that a person has refused is answered already and never run; one that a person has edited is run as
        edited (`HumanInTheLoopMiddleware` leaves both in the reply as the model made them).
        """
        reply, answered = last_batch(request.state["messages"])
        done = {answer.tool_call_id for answer in answered}
        edited: Mapping[str, Any] = request.state.get("hitl_edited_tool_calls") or {}
        answers = []
        for call in reply.tool_calls if reply else ():
            if call["id"] == request.tool_call["id"]:
                break
            run = edited.get(str(call["id"]), call)
            if run["name"] == self.zoom_tool.name and call["id"] not in done:
                args = {**run["args"], "messages": self._seen(request)}
                answers.append(self.zoom_tool.invoke({**call, "args": args, "type": "tool_call"}, {"callbacks": []}))
        return answers
