"""The zoom graph: the model looks cheaply first, then answers or asks for more resolution, within budgets.

    observe → decide ⇄ zoom → answer

The graph runs with any chat model that can be given tools, and knows nothing of tokens or engines. The trainer rolls
out the same graph with `ChatVLM`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.runnables import Runnable
from langchain_core.runnables.config import ensure_config
from langchain_core.tools import BaseTool, tool
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Checkpointer, Command, Durability, StateUpdate

from vtagent._moved import renamed_arguments
from vtagent.eyes import Vision
from vtagent.eyes.lookup import EyesGiven
from vtagent.graphs.act import Act
from vtagent.graphs.answer import AfterTools, Answer
from vtagent.graphs.decide import Decide
from vtagent.graphs.intake import is_quick, referenced
from vtagent.graphs.node import Parts
from vtagent.graphs.observe import Observe
from vtagent.graphs.sight import Sight
from vtagent.graphs.state import NodeResult, ZoomContext, ZoomInput, ZoomState, settings_of
from vtagent.images import ImageStore
from vtagent.ingest import Fetch
from vtagent.models.capabilities import reads_of
from vtagent.models.runnables import AnyModel, model_named, resolved
from vtagent.prompts import SystemPrompt, zoom_prompt

__all__ = ["ZoomAgent", "ZoomContext", "ZoomGraph", "ZoomState", "build_zoom_graph", "create_zoom_agent"]

_NAME = "zoom_agent"


class ZoomAgent(CompiledStateGraph[ZoomState, Any, Any, Any]):
    """The compiled graph. It replaces images by references before a checkpointer or a tracer sees the input.

    A run is a few model calls long, so it is checkpointed once: when it ends, fails or is interrupted. Pass a
    `durability` other than "exit" to change that.
    """

    builder: ZoomGraph

    def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
        """As `CompiledStateGraph.invoke`; inside another graph the result is a `NodeResult`."""
        return self._shared(super().invoke(input, config, **kwargs), config, kwargs)

    async def ainvoke(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
        """As `CompiledStateGraph.ainvoke`; inside another graph the result is a `NodeResult`."""
        return self._shared(await super().ainvoke(input, config, **kwargs), config, kwargs)

    def _shared(self, result: Any, config: Any, options: Mapping[str, Any]) -> Any:
        nested = ensure_config(config)["configurable"].get("checkpoint_ns")
        if not nested or not isinstance(result, dict) or options.get("output_keys") is not None:
            return result
        return NodeResult(result, self.builder.shares)

    def stream(self, input: Any, config: Any = None, *, context: Any = None, **kwargs: Any) -> Iterator[Any]:
        """As `CompiledStateGraph.stream`; `invoke` comes through here too."""
        kwargs["durability"] = kwargs.get("durability") or self._durability
        context = self._settings(context)
        return super().stream(self._taken_in(input, config, context), config, context=context, **kwargs)

    async def astream(
        self, input: Any, config: Any = None, *, context: Any = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        """As `CompiledStateGraph.astream`; `ainvoke` comes through here too."""
        kwargs["durability"] = kwargs.get("durability") or self._durability
        context = self._settings(context)
        taken_in = await self._ataken_in(input, config, context)
        async for chunk in super().astream(taken_in, config, context=context, **kwargs):
            yield chunk

    def astream_events(self, input: Any, config: Any = None, *, version: Any = "v2", **kwargs: Any) -> Any:
        """As `CompiledStateGraph.astream_events`."""
        if version == "v3":
            return super().astream_events(input, config, version=version, **kwargs)
        return self._events(input, config, version=version, **kwargs)

    async def _events(self, input: Any, config: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """The events of v1 and v2. The first repeats the input, so images are replaced before it."""
        taken_in = await self._ataken_in(input, config, self._settings(kwargs.get("context")))
        async for event in super().astream_events(taken_in, config, **kwargs):
            yield event

    def bulk_update_state(self, config: Any, supersteps: Any) -> Any:
        """As `CompiledStateGraph.bulk_update_state`; `update_state` comes through here too."""
        return super().bulk_update_state(config, self._updates_taken_in(supersteps))

    async def abulk_update_state(self, config: Any, supersteps: Any) -> Any:
        """As `CompiledStateGraph.abulk_update_state`; `aupdate_state` comes through here too."""
        return await super().abulk_update_state(config, await asyncio.to_thread(self._updates_taken_in, supersteps))

    def _updates_taken_in(self, supersteps: Sequence[Sequence[StateUpdate]]) -> list[list[StateUpdate]]:
        return [[u._replace(values=self._taken_in(u.values, None, None)) for u in updates] for updates in supersteps]

    @property
    def _durability(self) -> Durability | None:
        return "exit" if isinstance(self.checkpointer, BaseCheckpointSaver) else None

    def _taken_in(self, input: Any, config: Any, context: Any) -> Any:
        if isinstance(input, Command):
            return replace(input, update=self._taken_in(_as_mapping(input.update), config, context))
        if not isinstance(input, Mapping) or not input.get("messages"):
            return input
        builder, settings = self.builder, settings_of(context, self.builder.defaults)
        model = settings.model or builder.model
        reads = reads_of(model if model is None else resolved(model, config))
        messages = referenced(input["messages"], builder.store, builder.fetch, scale=settings.scale, reads=reads)
        return {**input, "messages": messages}

    async def _ataken_in(self, input: Any, config: Any, context: Any) -> Any:
        if self._is_quick(input):
            return self._taken_in(input, config, context)
        return await asyncio.to_thread(self._taken_in, input, config, context)

    def _is_quick(self, input: Any) -> bool:
        """Whether `_taken_in` has no image to read or decode, so that no thread is needed."""
        if not isinstance(input, Mapping):
            return not isinstance(input, Command)
        messages = input.get("messages") or []
        listed = isinstance(messages, list) and all(isinstance(message, BaseMessage) for message in messages)
        return listed and is_quick(messages, self.builder.store)

    def _settings(self, context: Any) -> Any:
        """The context of a run; a dict overrides the graph's own defaults, not those of `ZoomContext`.

        Raises:
            TypeError: A dict names a model. A server passes on what strangers send, and a name would have the process
                ask any model that it has a key for.
        """
        if not isinstance(context, Mapping):
            return context
        if isinstance(context.get("model"), str):
            raise TypeError("model must be a model here, not a name: only ZoomContext(model=…) takes names")
        return replace(self.builder.defaults, **context)


def _as_mapping(update: Any) -> Any:
    """A command's update as a mapping where it is written as pairs of a key and a value; else the update itself."""
    if isinstance(update, list | tuple) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in update):
        keys = [key for key, _ in update]
        return dict(update) if len(set(keys)) == len(keys) else update
    return update


class ZoomGraph(StateGraph[ZoomState, Any, Any, Any]):
    """The graph before it is compiled.

    Args:
        parts: What its nodes share.
        model: The graph's model; None if each run brings its own.
        shares: As for `build_zoom_graph`.
    """

    def __init__(self, parts: Parts, *, model: AnyModel | None = None, shares: Sequence[str] = ("messages",)) -> None:
        super().__init__(ZoomState, context_schema=ZoomContext, input_schema=ZoomInput)
        self.model, self.shares = model, tuple(shares)
        self.store, self.fetch, self.defaults = parts.store, parts.fetch, parts.defaults
        self.override = parts.override

    def compile(self, *args: Any, **kwargs: Any) -> ZoomAgent:
        """As `StateGraph.compile`."""
        compiled: Any = super().compile(*args, **kwargs)
        compiled.__class__ = ZoomAgent  # keeps all that LangGraph has set, in whatever version
        agent: ZoomAgent = compiled
        return agent


@renamed_arguments(prompt="system_prompt", store="image_store")
def build_zoom_graph(
    model: AnyModel | str | None = None,
    *,
    image_store: ImageStore | None = None,
    vision: Vision | None = None,
    eyes: EyesGiven = None,
    tools: Sequence[BaseTool | Callable[..., Any]] = (),
    system_prompt: SystemPrompt = zoom_prompt,
    tool_name: str | None = None,
    defaults: ZoomContext | None = None,
    fetch: Fetch | None = None,
    keep_images: int | None = None,
    shares: Sequence[str] = ("messages",),
    name: str | None = None,
) -> ZoomGraph:
    """Build the graph without compiling it, to change it or to make it part of a larger one.

    Args:
        model: The model; a run may bring its own in its context. A chat model, a runnable around chat models (with
            fallbacks, retries, bound or configurable options), or a name such as "openai:gpt-4o".
        image_store: Where images are kept; by default the model's own store, else this process's memory.
        vision: What the model does to the size of an image; by default as `eyes_of(model)` knows it.
        eyes: What is known better of the model than `eyes_of` knows: an `Eyes`, a `Vision`, fields of `Eyes` by name,
            or the name of a model that sees alike. Holds for the models that runs bring, too.
        tools: Other tools the model may call, or functions that have a docstring. Their errors become messages.
        system_prompt: The system prompt: a text, a `SystemMessage`, a function of the run's settings, or None for none.
        tool_name: What the model calls the zoom tool; by default "zoom_image", or the tool that the model is trained
            on. "image_zoom_in_tool" takes the arguments of Qwen3-VL's tool.
        defaults: The settings of runs that bring none.
        fetch: Reads an http(s) image URL in a message; without it such URLs are refused.
        keep_images: How many images the model is still shown, the newest of the conversation; by default as many as
            its provider takes. A run's `ZoomContext.keep_images` counts more.
        shares: The keys of the result that a graph around it receives, of "messages", "answer", "views", "usage" and
            "stop".
        name: The `name` of the model's replies, by which graphs of several agents tell them apart.

    Returns:
        The graph; `compile` it, or add nodes first.

    Raises:
        TypeError: An argument of another type.
        ValueError: Two tools of one name, an unknown key in `shares`, or a `keep_images` below 1.
        ModelError: A model's name that cannot be looked up.

    Example:
        As a subgraph of a conversation, sharing its messages:

        >>> from langgraph.graph import MessagesState
        >>> parent = StateGraph(MessagesState)
        >>> _ = parent.add_node("look", build_zoom_graph(model).compile())
        >>> _ = parent.add_edge(START, "look")
        >>> parent.compile().invoke({"messages": [question]})["messages"][-1].text
        '<think>It is large.</think><answer>48.10</answer>'
    """
    if isinstance(model, str):
        model = model_named(model)
    kinds: list[tuple[str, object, type]] = [
        ("model", model, Runnable),
        ("image_store", image_store, ImageStore),
        ("defaults", defaults, ZoomContext),
    ]
    for argument, value, kind in kinds:
        if value is not None and not isinstance(value, kind):
            expected = "BaseChatModel" if kind is Runnable else kind.__name__
            raise TypeError(f"{argument} must be of type {expected}, not {type(value).__name__}")
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
    others = [_tool(each) for each in tools]
    if parts.tool_name in (names := [each.name for each in others]) or len(set(names)) != len(names):
        raise ValueError(f"two tools have the same name: {[parts.tool_name, *names]}")
    if unknown := set(shares) - set(ZoomState.__annotations__) - {"messages"}:
        raise ValueError(f"shares names keys that the result does not have: {sorted(unknown)}")
    graph = ZoomGraph(parts, model=model, shares=shares)
    graph.add_node("observe", Observe(parts))
    graph.add_node(
        "decide",
        Decide(parts, model=model, tools=others, sight=Sight(parts, keep_images), speaks_as=name),
        destinations=("zoom", "answer"),
    )
    graph.add_node("zoom", Act(parts, tools=others))
    graph.add_node("answer", Answer(parts))
    graph.add_edge(START, "observe")
    graph.add_edge("observe", "decide")
    if direct := [each.name for each in others if each.return_direct]:
        graph.add_conditional_edges("zoom", AfterTools(direct), ["decide", "answer"])
    else:
        graph.add_edge("zoom", "decide")
    graph.add_edge("answer", END)
    return graph


@renamed_arguments(prompt="system_prompt", store="image_store")
def create_zoom_agent(
    model: AnyModel | str | None = None,
    *,
    image_store: ImageStore | None = None,
    vision: Vision | None = None,
    eyes: EyesGiven = None,
    tools: Sequence[BaseTool | Callable[..., Any]] = (),
    system_prompt: SystemPrompt = zoom_prompt,
    tool_name: str | None = None,
    defaults: ZoomContext | None = None,
    fetch: Fetch | None = None,
    keep_images: int | None = None,
    shares: Sequence[str] = ("messages",),
    checkpointer: Checkpointer = None,
    name: str = _NAME,
) -> ZoomAgent:
    """Build and compile the graph. A run takes messages with images, and adds `answer`, `views`, `usage` and `stop`.

    Args:
        model: As for `build_zoom_graph`.
        image_store: As for `build_zoom_graph`.
        vision: As for `build_zoom_graph`.
        eyes: As for `build_zoom_graph`.
        tools: As for `build_zoom_graph`.
        system_prompt: As for `build_zoom_graph`.
        tool_name: As for `build_zoom_graph`.
        defaults: As for `build_zoom_graph`.
        fetch: As for `build_zoom_graph`.
        keep_images: As for `build_zoom_graph`.
        shares: As for `build_zoom_graph`.
        checkpointer: Keeps conversations; images stay in the image store, whatever their size.
        name: The graph's name, in traces and as a subgraph. One of your own is also the `name` of the model's replies.

    Example:
        >>> agent = create_zoom_agent(model)
        >>> result = agent.invoke({"messages": [question]}, context={"max_zooms": 2})
        >>> result["answer"], result["usage"]["zooms"], result["stop"]
        ('48.10', 0, None)
    """
    graph = build_zoom_graph(
        model,
        image_store=image_store,
        vision=vision,
        eyes=eyes,
        tools=tools,
        system_prompt=system_prompt,
        tool_name=tool_name,
        defaults=defaults,
        fetch=fetch,
        keep_images=keep_images,
        shares=shares,
        name=None if name == _NAME else name,
    )
    return graph.compile(checkpointer=checkpointer, name=name)


def _tool(given: object) -> BaseTool:
    if isinstance(given, BaseTool):
        return given
    if not callable(given):
        raise TypeError(f"a tool must be a LangChain tool or a function, not {type(given).__name__}")
    return tool(given)
