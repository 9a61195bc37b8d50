"""`Node`, the base class of the graph's nodes, and `Parts`, which all nodes of one graph share."""

from __future__ import annotations

import asyncio
import inspect
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.tools import BaseTool
from langgraph.runtime import Runtime, get_runtime

from vtagent.conversation import images_of, shown_views
from vtagent.eyes import Eyes, Vision, eyes_of, eyes_on
from vtagent.eyes.lookup import EyesGiven
from vtagent.graphs.state import ZoomContext, ZoomState, settings_of
from vtagent.graphs.unread_references import watch
from vtagent.images import ImageStore
from vtagent.ingest import Fetch
from vtagent.models.capabilities import reads_references, store_of
from vtagent.models.runnables import first_chat_model, resolved
from vtagent.prompts import SystemPrompt
from vtagent.tools.pointing import ShownSize
from vtagent.tools.zoom_image import create_zoom_tool
from vtagent.views import UNSEEN

ZoomRuntime: TypeAlias = Runtime[ZoomContext]

_KEPT = 32  # a graph rarely serves more models, or conversations with other sizes of images at a time


@dataclass(frozen=True)
class Parts:
    """What is fixed when a graph or a middleware is made."""

    defaults: ZoomContext
    """The settings of runs that bring none."""
    store: ImageStore
    """Where images are kept."""
    zoom_tool: BaseTool
    """The tool for `model`; see `zoom_tool_for`."""
    prompt: SystemPrompt
    """The system prompt: a text, a message, a function of the run's settings, or None for none."""
    fetch: Fetch | None
    """Reads an http(s) image URL in a message; None refuses such URLs."""
    model: object = None
    """The model of runs that bring none; None if it is not known yet."""
    override: EyesGiven = None
    """What the caller knows better of any model's eyes."""
    _known: dict[int, tuple[object, Eyes]] = field(default_factory=dict, repr=False, compare=False)
    _named: dict[str, Eyes] = field(default_factory=dict, repr=False, compare=False)
    _zoom_tools: dict[Any, tuple[Eyes, BaseTool]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        model: object,
        *,
        defaults: ZoomContext | None,
        store: ImageStore | None,
        vision: Vision | None,
        eyes: EyesGiven = None,
        tool_name: str | None,
        prompt: SystemPrompt,
        fetch: Fetch | None,
    ) -> Parts:
        """The parts, where None takes the model's own store, image sizes and zoom tool.

        Raises:
            ValueError: Both `vision` and `eyes` are given, or `eyes` is not what `eyes_of` takes as its override.
        """
        if vision is not None and eyes is not None:
            raise ValueError("give vision= or eyes=, and not both: an Eyes has a vision")
        watch()
        store = store or store_of(first_chat_model(model))
        override = eyes if vision is None else vision
        seen = eyes_of(model, override=override, warn=False)
        zoom_tool = create_zoom_tool(image_store=store, eyes=seen, name=tool_name or seen.zoom_dialect)
        return cls(defaults or ZoomContext(), store, zoom_tool, prompt, fetch, model, override)

    def eyes(self, model: object = None) -> Eyes:
        """How a model sees. An unknown model whose pixels we send is told, once a process, with a warning.

        Args:
            model: The model of a run; None for the one that the parts were made for.
        """
        model = _as_run(self.model if model is None else model)
        if (known := self._known.get(id(model))) is None:
            warn = model is not None and not reads_references(model)
            eyes = eyes_of(model, override=self.override, warn=warn)
            # A configured model is another object in each run, but its zoom tool should not be.
            eyes = next((same for _, same in list(self._known.values()) if same == eyes), eyes)
            known = model, eyes  # the model, so that its id stays its own
            if len(self._known) >= _KEPT:
                self._known.clear()
            self._known[id(model)] = known
        return known[1]

    def name_of(self, eyes: Eyes) -> str:
        """A name by which `eyes_named` finds `eyes` again, in another process, too, unless the model brings its own."""
        name = f"{eyes.wire}/{eyes.model}"
        self._named[name] = eyes
        return name

    def eyes_named(self, name: str | None) -> Eyes:
        """The eyes that `name_of` was given; of the model that the parts were made for if there is no name."""
        if name is None:
            return self.eyes()
        if (eyes := self._named.get(name)) is None:
            if self.model is not None and self.name_of(self.eyes()) == name:
                return self.eyes()
            wire, _, model = name.partition("/")
            eyes = self._named[name] = eyes_on(wire, model, override=self.override)
        return eyes

    @property
    def vision(self) -> Vision:
        """How the model that the parts were made for shrinks and bills images."""
        return eyes_of(self.model, override=self.override, warn=False).vision

    def zoom_tool_for(self, eyes: Eyes, messages: Iterable[BaseMessage] = ()) -> BaseTool:
        """The zoom tool for a model: its arguments are in the model's own convention.

        Args:
            eyes: How the model sees.
            messages: What the model is shown, for the sizes of the views that a box of pixels is on.
        """
        sizes = self._shown_first(eyes, messages) if eyes.boxes == "pixels as shown" else ()
        key = id(eyes), sizes
        if (made := self._zoom_tools.get(key)) is None:
            same = not sizes and eyes == getattr(self.zoom_tool, "eyes", None)
            tool = self.zoom_tool
            if not same:
                tool = create_zoom_tool(image_store=self.store, eyes=eyes, name=self.tool_name, sizes=sizes)
            if len(self._zoom_tools) >= _KEPT:
                self._zoom_tools.clear()
            made = self._zoom_tools[key] = eyes, tool  # the eyes, so that their id stays their own
        return made[1]

    def _shown_first(self, eyes: Eyes, messages: Iterable[BaseMessage]) -> tuple[ShownSize, ...]:
        """The sizes of the images that users sent, as shown first: zooms do not change them, nor a cached prompt."""
        shown = shown_views(messages, self.store)
        vision = eyes.vision_for(len(shown))
        numbers = {ref.id: number for number, ref in enumerate(images_of(view for view, _ in shown), 1)}
        first: dict[int, ShownSize] = {}
        for view, message in shown:
            number = numbers[view.ref.id]
            if isinstance(message, HumanMessage | SystemMessage) and number not in first and view.scale != UNSEEN:
                first[number] = (number, *view.size(vision))
        return tuple(first.values())

    @property
    def tool_name(self) -> str:
        """What the model calls the zoom tool."""
        return self.zoom_tool.name

    def prompt_for(self, settings: ZoomContext, eyes: Eyes | None = None) -> str | SystemMessage | None:
        """The system prompt of a run.

        Args:
            settings: The run's settings.
            eyes: How its model sees; by default as the one that the parts were made for.
        """
        if not callable(self.prompt):
            return self.prompt
        more: dict[str, Any] = {"boxes": (eyes or self.eyes()).boxes} if self._prompt_takes_boxes else {}
        return self.prompt(tool_name=self.tool_name, scale=settings.scale, max_zooms=settings.max_zooms, **more)

    @cached_property
    def _prompt_takes_boxes(self) -> bool:
        """Whether the prompt wants to know how the model writes a box."""
        parameters = inspect.signature(self.prompt).parameters.values() if callable(self.prompt) else ()
        return any(each.name == "boxes" or each.kind is each.VAR_KEYWORD for each in parameters)


def _as_run(model: object) -> object:
    """The model as the current run configures it; as it is given where that cannot be told."""
    if isinstance(model, BaseChatModel) or not isinstance(model, Runnable):
        return model
    try:
        return resolved(model)
    except Exception:  # a configurable model without a default raises what its provider raises
        return model


class Node(Runnable[ZoomState, Any]):
    """One step of the graph: the state in, an update of the state out."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    @abstractmethod
    def run(self, state: ZoomState, settings: ZoomContext, runtime: ZoomRuntime, config: RunnableConfig) -> Any:
        """Do the step."""

    async def arun(self, state: ZoomState, settings: ZoomContext, runtime: ZoomRuntime, config: RunnableConfig) -> Any:
        """Do the step in an event loop; by default in a thread, since images are read from disk and decoded."""
        return await asyncio.to_thread(self.run, state, settings, runtime, config)

    def invoke(self, input: ZoomState, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """See `run`."""
        runtime = get_runtime(ZoomContext)
        return self.run(input, settings_of(runtime.context, self.parts.defaults), runtime, config or {})

    async def ainvoke(self, input: ZoomState, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """See `arun`."""
        runtime = get_runtime(ZoomContext)
        return await self.arun(input, settings_of(runtime.context, self.parts.defaults), runtime, config or {})
