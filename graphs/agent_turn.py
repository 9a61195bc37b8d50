"""One call of an agent's model, laid out: what it is shown, which tools it is offered, and what the call comes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from langchain.agents.middleware import ModelRequest, ModelResponse
from langchain.agents.middleware.types import ExtendedModelResponse
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, SystemMessage
from langchain_core.tools import BaseTool
from langgraph.types import Command

from vtagent.conversation import image_blocks, name_of
from vtagent.errors import ModelError
from vtagent.graphs.budgets import after_call, in_view
from vtagent.graphs.in_sight import newest_in_sight
from vtagent.graphs.model_call import (
    after_tool_messages,
    can_be_forbidden,
    reads_references,
    takes_tool_images,
    without_lost_images,
    zoom_biased,
)
from vtagent.graphs.state import ZoomContext, settings_of
from vtagent.graphs.tally import Looking, looking_of, spent, with_answers
from vtagent.graphs.tool_calls import structured, without_calls
from vtagent.images import ImageStore
from vtagent.models.pixel_model import PixelModel
from vtagent.prompts import PromptTemplate
from vtagent.visual_tokens import VisionSpec

_KEPT = 16  # models kept ready: an agent rarely chooses among more than a few


@dataclass(frozen=True)
class Turn:
    """A call, ready to be made."""

    request: ModelRequest[Any]
    looking: Looking
    must_answer: bool

    def tallied(self, response: ModelResponse[Any], seconds: float) -> ExtendedModelResponse[Any]:
        """The response with its reply in the form that LangGraph acts on, and the run's tally beside it."""
        looking = self.looking
        result: list[BaseMessage] = []
        for message in response.result:
            if isinstance(message, AIMessage):
                message = without_calls(message) if self.must_answer else structured(message)
                looking = {**looking, "usage": after_call(looking["usage"], message, seconds)}
            result.append(message)
        return ExtendedModelResponse(replace(response, result=result), Command(update={"zoom": looking}))


class Turns:
    """Lays out the calls of an agent's model; see `ZoomMiddleware` for the arguments."""

    def __init__(
        self,
        defaults: ZoomContext,
        *,
        zoom_tool: BaseTool,
        store: ImageStore,
        vision: VisionSpec,
        keep_images: int | None,
        prompt: str | PromptTemplate | None,
    ) -> None:
        self.defaults, self.zoom_tool, self.store, self.vision = defaults, zoom_tool, store, vision
        self.keep_images, self.prompt = keep_images, prompt
        self._readers: dict[int, tuple[BaseChatModel, PixelModel]] = {}

    def next(self, request: ModelRequest[Any]) -> Turn:
        """The call that is asked for, of references, with zooms offered as the budgets allow."""
        settings = settings_of(request.runtime.context, self.defaults)
        name, model = self.zoom_tool.name, settings.model or request.model
        others = [tool for tool in request.tools if _name(tool) != name]
        known = {str(_name(tool)) for tool in others}
        usage = with_answers(looking_of(request.state), request.state["messages"], tool_name=name, others=known)
        stop = spent(usage, settings) if settings.max_zooms else None
        # A model that has nothing but zooms keeps the tool when it must answer: the prompt's prefix stays as it was.
        only_zooms = not others and request.response_format is None
        offered = settings.max_zooms > 0 and (only_zooms or not stop)
        messages = without_lost_images(request.messages, self.store)
        again = name if offered and not stop else None
        numbered = without_lost_images(request.state["messages"], self.store)
        messages = newest_in_sight(messages, self.keep_images, tool_name=again, numbered=numbered)
        views, usage = in_view(messages, usage, self.store, tool_name=name, vision=self.vision)
        offered = offered and bool(views)
        options: dict[str, Any] = {
            "model": self._reader(model, messages),
            "messages": messages if takes_tool_images(model) else after_tool_messages(messages),
            "tools": request.tools if offered else others,
        }
        if offered and stop and can_be_forbidden(model, request.tools):
            options["tool_choice"] = "none"
        if offered and (said := self._prompt(settings)):
            options["system_message"] = _with_prompt(request.system_message, said)
        if offered and not stop and settings.zoom_bias:
            options["model_settings"] = {**request.model_settings, **zoom_biased(model, settings)}
        looking = Looking(views=views, usage=usage, stop=stop)
        return Turn(request.override(**options), looking, must_answer=bool(offered and stop))

    def _reader(self, model: BaseChatModel, messages: Sequence[BaseMessage]) -> BaseChatModel:
        """The model if it reads references, from its own store; else the model behind a step that puts pixels in."""
        if reads_references(model):
            if getattr(model, "vision", self.vision) != self.vision:
                raise ModelError(
                    f"the middleware was made for other image sizes than {type(model).__name__} sees: "
                    "ZoomMiddleware(model) takes them from the model"
                )
            theirs: ImageStore = getattr(model, "store", self.store)
            if theirs is not self.store:
                for name in {name_of(block["url"]) for _, block in image_blocks(messages)}:
                    if name not in theirs:
                        theirs.put(self.store.get(name))
            return model
        known = self._readers.get(id(model))
        if known is None or known[0] is not model:
            if len(self._readers) >= _KEPT:
                self._readers.clear()
            known = self._readers[id(model)] = model, PixelModel.over(model, self.store, self.vision)
        return known[1]

    def _prompt(self, settings: ZoomContext) -> str | None:
        if not callable(self.prompt):
            return self.prompt
        return self.prompt(tool_name=self.zoom_tool.name, scale=settings.scale, max_zooms=settings.max_zooms)


def _with_prompt(message: SystemMessage | None, said: str) -> SystemMessage:
    """The agent's own system message, if any, and ours after it."""
    if message is None:
        return SystemMessage(said)
    if isinstance(message.content, str):
        return message.model_copy(update={"content": f"{message.content}\n\n{said}"})
    return message.model_copy(update={"content": [*message.content, {"type": "text", "text": said}]})


def _name(tool: BaseTool | dict[str, Any]) -> str | None:
    return tool.get("name") if isinstance(tool, dict) else tool.name
