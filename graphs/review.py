"""Lets a person decide on every zoom before it happens: approve it, choose another region, or refuse it.

    graph = review_zooms(build_zoom_graph(model))
    agent = graph.compile(checkpointer=saver)
    paused = agent.invoke({"messages": [question]}, config)["__interrupt__"][0].value
    agent.invoke(Command(resume={"decisions": [{"type": "approve"}]}), config)

Questions and decisions have the form of LangChain's `HumanInTheLoopMiddleware`, so a user interface for its interrupts
works here too. Agents of `create_agent` use that middleware itself, beside `ZoomMiddleware`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.messages import AIMessage, ToolCall, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.types import Command, interrupt

from vtagent.eyes import QWEN_ZOOM
from vtagent.graphs.act import Act
from vtagent.graphs.node import Node, ZoomRuntime
from vtagent.graphs.state import ZoomContext, ZoomState
from vtagent.graphs.zoom import ZoomGraph

__all__ = ["review_zooms"]

DECISIONS = ("approve", "edit", "reject")


def review_zooms(graph: ZoomGraph) -> ZoomGraph:
    """Make every zoom of a graph wait for a person.

    The run pauses before it acts on a reply that zooms. The interrupt's value lists the calls:
    `{"action_requests": [{"name", "args", "description"}], "review_configs": […]}`. It goes on with
    `Command(resume={"decisions": […]})`, one decision for each call, in order:

    * `{"type": "approve"}`
    * `{"type": "edit", "edited_action": {"name": "zoom_image", "args": {"region": [0, 0, 500, 500]}}}`
    * `{"type": "reject", "message": "why"}`: the model is told and goes on; this counts as no zoom and no mistake.

    The model's own call stays in the conversation as it was made; the tool's answer says what was shown instead. If the
    answer is anything else, the run asks again, with the reason as "problem" in the interrupt's value.

    Args:
        graph: The graph. It is changed in place.

    Returns:
        The same graph; compile it with a checkpointer.
    """
    node = graph.nodes["zoom"]
    act = node.runnable
    assert isinstance(act, Act)
    node.runnable = Reviewed(act)
    return graph


class Reviewed(Node):
    """Asks a person about the zooms of a reply, then acts on the reply.

    Args:
        act: The node that acts.
    """

    def __init__(self, act: Act) -> None:
        super().__init__(act.parts)
        self.act = act

    def run(self, state: ZoomState, settings: ZoomContext, runtime: ZoomRuntime, config: RunnableConfig) -> Any:
        """Ask about the zooms of the last reply, then run the approved and edited calls."""
        decided, refused = self._decided(state)
        return _beside(refused, self.act.run(decided, settings, runtime, config))

    async def arun(self, state: ZoomState, settings: ZoomContext, runtime: ZoomRuntime, config: RunnableConfig) -> Any:
        """As `run`."""
        decided, refused = self._decided(state)
        return _beside(refused, await self.act.arun(decided, settings, runtime, config))

    def _decided(self, state: ZoomState) -> tuple[ZoomState, list[ToolMessage]]:
        """The state with the approved and edited calls, and the tool messages for the rejected ones."""
        reply = state["messages"][-1]
        assert isinstance(reply, AIMessage)
        zooms = [call for call in reply.tool_calls if call["name"] == self.parts.tool_name]
        if not zooms:
            return state, []
        question = {"action_requests": [_request(call) for call in zooms], "review_configs": [self._config()]}
        read = _read(interrupt(question), zooms)
        while isinstance(read, str):
            read = _read(interrupt({**question, "problem": read}), zooms)
        decided, refused = read
        calls = [kept for call in reply.tool_calls if (kept := decided.get(str(call["id"]), call)) is not None]
        messages = [*state["messages"][:-1], reply.model_copy(update={"tool_calls": calls})]
        return {**state, "messages": messages}, refused

    def _config(self) -> dict[str, Any]:
        return {"action_name": self.parts.tool_name, "allowed_decisions": list(DECISIONS)}


def _read(answer: object, zooms: list[ToolCall]) -> tuple[dict[str, ToolCall | None], list[ToolMessage]] | str:
    """The calls by id as decided (None: rejected) and the tool messages for rejected calls; or what is wrong."""
    decisions = answer.get("decisions") if isinstance(answer, Mapping) else None
    if not isinstance(decisions, list) or len(decisions) != len(zooms):
        return f'expected {{"decisions": [...]}} with {len(zooms)} of {", ".join(DECISIONS)}, not {answer!r:.200}'
    decided: dict[str, ToolCall | None] = {}
    refused: list[ToolMessage] = []
    for call, decision in zip(zooms, decisions, strict=True):
        match decision:
            case {"type": "approve"}:
                decided[str(call["id"])] = call
            case {"type": "edit", "edited_action": {"args": dict(args)}}:
                decided[str(call["id"])] = {**call, "args": args}
            case {"type": "reject"}:
                decided[str(call["id"])] = None
                refused.append(_refusal(call, decision.get("message")))
            case _:
                return f"a decision is one of {', '.join(DECISIONS)}, not {decision!r:.200}"
    return decided, refused


def _request(call: ToolCall) -> dict[str, Any]:
    region = call["args"].get("bbox_2d" if call["name"] == QWEN_ZOOM else "region")
    what = "the whole image" if region is None else f"region {region}"
    description = f"The model asks to see {what} at full resolution."
    return {"name": call["name"], "args": call["args"], "description": description}


def _refusal(call: ToolCall, reason: object) -> ToolMessage:
    text = f"A person refused this zoom{f': {reason}' if reason else ''}. Answer from what you see."
    return ToolMessage(text, name=call["name"], tool_call_id=str(call["id"]), status="error")


def _beside(refused: list[ToolMessage], update: Any) -> Any:
    """The update of `Act` with the tool messages for rejected calls in front."""

    def with_refusals(each: Any) -> Any:
        return each if isinstance(each, Command) else {**each, "messages": [*refused, *each["messages"]]}

    return [with_refusals(each) for each in update] if isinstance(update, list) else with_refusals(update)
