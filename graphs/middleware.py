"""`ZoomMiddleware`: any agent of `langchain.agents.create_agent` looks at images cheaply first, and zooms when needed.

    agent = create_agent(model, tools, middleware=[ZoomMiddleware()])

What happens where:

    before_agent      pictures in the conversation become references, new ones at low resolution
    wrap_model_call   what is in sight is laid out for this one call; pixels go in below LangChain's callbacks
    after_model       a call that could not be read is answered, and the model goes on
    wrap_tool_call    a zoom is granted or refused by the budgets; pictures of other tools become references

List it last: middleware that chooses the model or edits its messages must have done so before.

The state never holds pixels once `before_agent` has run. No hook is earlier, so what the caller passed in is what the
root trace shows, and what a checkpointer with the default durability writes for the run's input and first step. Keep
pixels out of these, too, with `OffloadSerializer` in the checkpointer, or by passing `middleware.referenced(messages)`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, NotRequired

from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse, hook_config
from langchain.agents.middleware.types import ExtendedModelResponse, OmitFromInput, ToolCallRequest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.runtime import Runtime
from langgraph.types import TracePolicy, omit_payload

from vtagent.graphs.act import why
from vtagent.graphs.agent_turn import Turns
from vtagent.graphs.agent_zooms import Answer, Zooms
from vtagent.graphs.intake import noted
from vtagent.graphs.model_call import store_of
from vtagent.graphs.observe import Fetch, Observe, referenced
from vtagent.graphs.state import ZoomContext, settings_of
from vtagent.graphs.tally import Looking, nothing_yet
from vtagent.images import ImageStore
from vtagent.prompts import PromptTemplate, agent_prompt
from vtagent.tools.zoom_image import create_zoom_tool
from vtagent.visual_tokens import QWEN3_VL, VisionSpec

__all__ = ["ZoomAgentState", "ZoomMiddleware"]


class ZoomAgentState(AgentState[Any]):
    """An agent's state, and beside it what the last run has looked at."""

    zoom: NotRequired[Annotated[Looking, OmitFromInput]]


class ZoomMiddleware(AgentMiddleware[ZoomAgentState, Any, Any]):
    """Shows an agent's model each image small first, and lets it ask for more with `zoom_image`.

    Args:
        model: The agent's model, if it is a `ChatVLM`: its image store and its image sizes are then used here, too.
        store: Where images are kept; the model's own, or else this process's memory.
        vision: The model family's patch grid and limits; the model's own, or else Qwen3-VL's.
        defaults: Scale, budgets and zoom bias of runs whose context is no `ZoomContext`. A spent budget ends the
            zooming; the agent's other tools stay at hand.
        keep_images: How many images of a conversation the model is still shown, the newest; None: all of them.
        prompt: What is added to the agent's system prompt while there is an image: a text, a function of the run's
            settings, or None for nothing.
        tool_name: What the model calls the zoom tool.
        fetch: Reads an http(s) image URL in a message; without it such URLs are refused.

    Example:
        >>> agent = create_agent(model, middleware=[ZoomMiddleware(model)])
        >>> result = agent.invoke({"messages": [question]})
        >>> result["zoom"]["usage"]["zooms"], result["zoom"]["usage"]["visual_tokens"]
        (0, 300)
    """

    state_schema = ZoomAgentState
    trace_policy = TracePolicy(process_inputs=omit_payload)  # before_agent is the one step whose input has pixels

    def __init__(
        self,
        model: BaseChatModel | None = None,
        *,
        store: ImageStore | None = None,
        vision: VisionSpec | None = None,
        defaults: ZoomContext | None = None,
        keep_images: int | None = None,
        prompt: str | PromptTemplate | None = agent_prompt,
        tool_name: str = "zoom_image",
        fetch: Fetch | None = None,
    ) -> None:
        super().__init__()
        if keep_images is not None and keep_images < 1:
            raise ValueError(f"keep_images must be at least 1, not {keep_images}")
        self.defaults, self.fetch = defaults or ZoomContext(), fetch
        self.store = store or store_of(model)
        self.vision: VisionSpec = vision or getattr(model, "vision", None) or QWEN3_VL
        self.zoom_tool = create_zoom_tool(store=self.store, vision=self.vision, name=tool_name)
        self.tools = [self.zoom_tool]
        self._observe = Observe(self.defaults, store=self.store, vision=self.vision, tool_name=tool_name, fetch=fetch)
        shared: dict[str, Any] = {"zoom_tool": self.zoom_tool, "store": self.store, "vision": self.vision}
        self._turns = Turns(self.defaults, **shared, keep_images=keep_images, prompt=prompt)
        self._zooms = Zooms(self.defaults, **shared, keep_images=keep_images, fetch=fetch)

    def referenced(self, messages: Any) -> Any:
        """The messages with references for pictures, so that not even the agent's input carries pixels.

        Args:
            messages: In any form that LangGraph takes. Never modified.

        Raises:
            ImageError: A picture that cannot be read or is refused.
        """
        return referenced(messages, self.store, self.fetch)

    def before_agent(self, state: ZoomAgentState, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Take in the new messages and begin the run's tally."""
        if not state["messages"]:
            return {"zoom": nothing_yet()}
        settings = settings_of(runtime.context, self.defaults)
        earlier = state["messages"][:-1]  # a run that failed left no reply: only the last is surely new
        readable = [noted(message, self.store, self.fetch) for message in earlier]
        changed = {new.id: new for new, message in zip(readable, earlier, strict=True) if new is not message}
        messages = [changed.get(message.id, message) for message in state["messages"]]
        seen: Any = self._observe.run({**state, "messages": messages}, settings, runtime, {})  # type: ignore[typeddict-item]
        changed |= {message.id: message for message in seen.get("messages", ())}
        looking = Looking(views=seen["views"], usage=seen["usage"], stop=None)
        return {"zoom": looking, "messages": list(changed.values())} if changed else {"zoom": looking}

    async def abefore_agent(self, state: ZoomAgentState, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """As `before_agent`; images are decoded in a thread."""
        return await asyncio.to_thread(self.before_agent, state, runtime)

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ExtendedModelResponse[Any]:
        """Show the model what is in sight, and tally the call."""
        turn = self._turns.next(request)
        start = time.perf_counter()
        return turn.tallied(handler(turn.request), time.perf_counter() - start)

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ExtendedModelResponse[Any]:
        """As `wrap_model_call`."""
        turn = await asyncio.to_thread(self._turns.next, request)
        start = time.perf_counter()
        return turn.tallied(await handler(turn.request), time.perf_counter() - start)

    @hook_config(can_jump_to=["model"])
    def after_model(self, state: ZoomAgentState, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Answer each call that cannot be read. Where no other can be run, the model goes on; else the tools do."""
        reply = state["messages"][-1]
        if not isinstance(reply, AIMessage) or not reply.invalid_tool_calls:
            return None
        said = [
            ToolMessage(why(bad), name=bad["name"] or self.zoom_tool.name, tool_call_id=str(bad["id"]), status="error")
            for bad in reply.invalid_tool_calls
        ]
        return {"messages": said} if reply.tool_calls else {"messages": said, "jump_to": "model"}

    @hook_config(can_jump_to=["model"])
    async def aafter_model(self, state: ZoomAgentState, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """As `after_model`."""
        return self.after_model(state, runtime)

    def wrap_tool_call(self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Answer]) -> Answer:
        """Grant or refuse a zoom; swap what other tools show for references."""
        if request.tool_call["name"] != self.zoom_tool.name:
            return self._zooms.without_pixels(handler(request))
        return self._zooms.granted(request, handler(self._zooms.in_sight(request)))

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[Answer]]
    ) -> Answer:
        """As `wrap_tool_call`; the image store is asked in a thread."""
        if request.tool_call["name"] != self.zoom_tool.name:
            return await asyncio.to_thread(self._zooms.without_pixels, await handler(request))
        answer = await handler(await asyncio.to_thread(self._zooms.in_sight, request))
        return await asyncio.to_thread(self._zooms.granted, request, answer)
