"""`ZoomMiddleware`: any agent of `langchain.agents.create_agent` looks at images cheaply first, and zooms when needed.

    agent = create_agent(model, tools, middleware=[ZoomMiddleware()])

What happens where:

    before_agent      replaces the images of the conversation by references, new ones at low resolution
    wrap_model_call   prepares one call of the model; pixels are put in below LangChain's callbacks
    after_model       answers unreadable calls with an error, and calls the model again
    wrap_tool_call    grants or refuses a zoom by the budgets; replaces the images of other tools by references

List it last: middleware that edits the messages of a call must run before it. A model that later middleware puts in
place, such as a fallback, is given pixels, too.

The state never holds pixels once `before_agent` has run. No hook runs earlier, so the caller's input still has its
pixels in the root trace, and in what a checkpointer with the default durability writes for the run's input and first
step. To keep pixels out of these too, use `OffloadSerializer` in the checkpointer, or pass
`middleware.referenced(messages)`.
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

from vtagent._moved import renamed_arguments
from vtagent.eyes import Vision
from vtagent.eyes.lookup import EyesGiven
from vtagent.graphs.agent_turn import AgentTurns
from vtagent.graphs.agent_zooms import AgentZooms, Answer, Looking, looking_of, nothing_yet, own_tally
from vtagent.graphs.intake import is_quick, noted, referenced
from vtagent.graphs.node import Parts
from vtagent.graphs.observe import Observe
from vtagent.graphs.sight import Sight
from vtagent.graphs.state import ZoomContext, settings_of
from vtagent.graphs.tool_calls import why_invalid
from vtagent.images import ImageStore
from vtagent.ingest import Fetch
from vtagent.prompts import SystemPrompt, agent_prompt

__all__ = ["ZoomAgentState", "ZoomMiddleware"]


class ZoomAgentState(AgentState[Any]):
    """An agent's state with what the last run has looked at."""

    zoom: NotRequired[Annotated[Looking, OmitFromInput, own_tally]]


class ZoomMiddleware(AgentMiddleware[ZoomAgentState, Any, Any]):
    """Shows an agent's model each image small first, and lets it ask for more with `zoom_image`.

    Args:
        model: The agent's model, to use its image store if it is a `ChatVLM`, and the zoom tool that it is trained on.
            How a model sees is looked up for the model of each call.
        image_store: Where images are kept; by default the model's own store, else this process's memory.
        vision: What the model does to the size of an image; by default as `eyes_of(model)` knows it.
        eyes: What is known better of the model than `eyes_of` knows: an `Eyes`, a `Vision`, fields of `Eyes` by name,
            or the name of a model that sees alike.
        defaults: Scale, budgets and zoom bias of runs whose context is no `ZoomContext`. A spent budget ends the
            zooming; the agent's other tools stay available.
        keep_images: How many images the model is still shown, the newest of the conversation; by default as many as
            its provider takes. A run's `ZoomContext.keep_images` counts more.
        system_prompt: What is added to the agent's system prompt while there is an image: a text, a
            `SystemMessage`, a function of the run's settings, or None for nothing.
        tool_name: What the model calls the zoom tool; by default "zoom_image", or the tool that the model is trained
            on. "image_zoom_in_tool" takes the arguments of Qwen3-VL's tool.
        fetch: Reads an http(s) image URL in a message; without it such URLs are refused.

    Example:
        >>> agent = create_agent(model, middleware=[ZoomMiddleware(model)])
        >>> result = agent.invoke({"messages": [question]})
        >>> result["zoom"]["usage"]["zooms"], result["zoom"]["usage"]["visual_tokens"]
        (0, 300)
    """

    state_schema = ZoomAgentState
    trace_policy = TracePolicy(process_inputs=omit_payload)  # the input of before_agent has pixels

    @renamed_arguments(prompt="system_prompt", store="image_store")
    def __init__(
        self,
        model: BaseChatModel | None = None,
        *,
        image_store: ImageStore | None = None,
        vision: Vision | None = None,
        eyes: EyesGiven = None,
        defaults: ZoomContext | None = None,
        keep_images: int | None = None,
        system_prompt: SystemPrompt = agent_prompt,
        tool_name: str | None = None,
        fetch: Fetch | None = None,
    ) -> None:
        super().__init__()
        parts = Parts.of(
            model,
            defaults=defaults,
            store=image_store,
            vision=vision,
            eyes=eyes,
            tool_name=tool_name,
            prompt=system_prompt,
            fetch=fetch,
        )
        self.defaults, self.store, self.vision, self.fetch = parts.defaults, parts.store, parts.vision, fetch
        self.zoom_tool = parts.zoom_tool
        self.tools = [parts.zoom_tool]
        self._observe = Observe(parts)
        self._turns = AgentTurns(parts, Sight(parts, keep_images))
        self._zooms = AgentZooms(parts)

    def referenced(self, messages: Any) -> Any:
        """The messages with references for images, so that not even the agent's input carries pixels.

        Args:
            messages: In any form that LangGraph takes. Never modified.

        Raises:
            ImageError: An image that cannot be read or is refused.
        """
        return referenced(messages, self.store, self.fetch)

    def before_agent(self, state: ZoomAgentState, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Take in the new messages and begin the run's usage."""
        if not state["messages"]:
            return {"zoom": nothing_yet()}
        settings = settings_of(runtime.context, self.defaults)
        earlier = state["messages"][:-1]  # a run that failed left no reply, so only the last is sure to be new
        readable = [noted(message, self.store, self.fetch) for message in earlier]
        changed = {new.id: new for new, message in zip(readable, earlier, strict=True) if new is not message}
        messages = [changed.get(message.id, message) for message in state["messages"]]
        seen: Any = self._observe.run({**state, "messages": messages}, settings, runtime, {})  # type: ignore[typeddict-item]
        changed |= {message.id: message for message in seen.get("messages", ())}
        looking = Looking(views=seen["views"], usage=seen["usage"], stop=None)
        return {"zoom": looking, "messages": list(changed.values())} if changed else {"zoom": looking}

    async def abefore_agent(self, state: ZoomAgentState, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """As `before_agent`; images are decoded in a thread."""
        if is_quick(state["messages"], self.store):
            return self.before_agent(state, runtime)
        return await asyncio.to_thread(self.before_agent, state, runtime)

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ExtendedModelResponse[Any]:
        """Prepare the call, make it, and count what it cost."""
        turn = self._turns.prepare(request)
        start = time.perf_counter()
        response = handler(turn.request)
        return turn.finish(response, time.perf_counter() - start)

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ExtendedModelResponse[Any]:
        """As `wrap_model_call`."""
        if self.store.in_memory:
            turn = self._turns.prepare(request)
        else:
            turn = await asyncio.to_thread(self._turns.prepare, request)
        start = time.perf_counter()
        response = await handler(turn.request)
        return turn.finish(response, time.perf_counter() - start)

    @hook_config(can_jump_to=["model"])
    def after_model(self, state: ZoomAgentState, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Answer each zoom that cannot be read, and ask the model again if it called nothing else.

        A run ends where it would without this middleware if the model was not offered to zoom, or may zoom no more, and
        for calls of other tools: LangChain answers those when it calls the model next.
        """
        reply, looking = state["messages"][-1], looking_of(state)
        if not isinstance(reply, AIMessage) or not reply.invalid_tool_calls or not looking["views"]:
            return None
        settings = settings_of(getattr(runtime, "context", None), self.defaults)
        ours = [bad for bad in reply.invalid_tool_calls if (bad["name"] or self.zoom_tool.name) == self.zoom_tool.name]
        if not ours or looking["stop"] or not settings.max_zooms:
            return None
        said = [
            ToolMessage(why_invalid(bad), name=self.zoom_tool.name, tool_call_id=str(bad["id"]), status="error")
            for bad in ours
        ]
        return {"messages": said} if reply.tool_calls else {"messages": said, "jump_to": "model"}

    @hook_config(can_jump_to=["model"])
    async def aafter_model(self, state: ZoomAgentState, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """As `after_model`."""
        return self.after_model(state, runtime)

    def wrap_tool_call(self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Answer]) -> Answer:
        """Grant or refuse a zoom; replace the images of other tools by references."""
        if request.tool_call["name"] != self.zoom_tool.name:
            return self._zooms.of_another_tool(request, handler(request))
        return self._zooms.grant(request, handler(self._zooms.as_the_tool_sees(request)))

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[Answer]]
    ) -> Answer:
        """As `wrap_tool_call`; the image store is read in a thread."""
        if request.tool_call["name"] != self.zoom_tool.name:
            answer = await handler(request)
            if self._zooms.is_quick(answer):
                return self._zooms.of_another_tool(request, answer)
            return await asyncio.to_thread(self._zooms.of_another_tool, request, answer)
        if self.store.in_memory:
            return self._zooms.grant(request, await handler(self._zooms.as_the_tool_sees(request)))
        answer = await handler(await asyncio.to_thread(self._zooms.as_the_tool_sees, request))
        return await asyncio.to_thread(self._zooms.grant, request, answer)
