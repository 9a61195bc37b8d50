"""What the nodes of a graph share: the parts that are fixed when it is built, and a sync and an async entry."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, TypeAlias

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.tools import BaseTool
from langgraph.runtime import Runtime, get_runtime

from vtagent.graphs.state import ZoomContext, ZoomState, settings_of
from vtagent.graphs.unread_references import watch
from vtagent.images import ImageStore
from vtagent.ingest import Fetch
from vtagent.models.capabilities import store_of, vision_of
from vtagent.models.runnables import first_chat_model
from vtagent.prompts import PromptTemplate
from vtagent.tools.zoom_image import create_zoom_tool
from vtagent.visual_tokens import VisionSpec

ZoomRuntime: TypeAlias = Runtime[ZoomContext]


@dataclass(frozen=True)
class Parts:
    """What is fixed when a graph or a middleware is made."""

    defaults: ZoomContext
    """The settings of runs that bring none."""
    store: ImageStore
    """Where images are kept."""
    vision: VisionSpec
    """The model family's patch grid and limits."""
    zoom_tool: BaseTool
    prompt: str | PromptTemplate | None
    """The system prompt: a text, a function of the run's settings, or None for none."""
    fetch: Fetch | None
    """Reads an http(s) image URL in a message; None refuses such URLs."""

    @classmethod
    def of(
        cls,
        model: object,
        *,
        defaults: ZoomContext | None,
        store: ImageStore | None,
        vision: VisionSpec | None,
        tool_name: str,
        prompt: str | PromptTemplate | None,
        fetch: Fetch | None,
    ) -> Parts:
        """The parts, where None takes the model's own store and image sizes."""
        watch()
        model = first_chat_model(model)
        store = store or store_of(model)
        vision = vision or vision_of(model)
        zoom_tool = create_zoom_tool(store=store, vision=vision, name=tool_name)
        return cls(defaults or ZoomContext(), store, vision, zoom_tool, prompt, fetch)

    @property
    def tool_name(self) -> str:
        """What the model calls the zoom tool."""
        return self.zoom_tool.name

    def prompt_for(self, settings: ZoomContext) -> str | None:
        """The system prompt of a run."""
        if not callable(self.prompt):
            return self.prompt
        return self.prompt(tool_name=self.tool_name, scale=settings.scale, max_zooms=settings.max_zooms)


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
