"""Prepares the calls of an agent's model, offers zooms as the budgets allow, and counts what each call costs.

A call in which the model sees no image is made as LangChain would make it: only the zoom tool is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from langchain.agents.middleware import ModelRequest, ModelResponse
from langchain.agents.middleware.types import ExtendedModelResponse
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.tools import BaseTool
from langgraph.types import Command

from vtagent.conversation import image_blocks
from vtagent.errors import ModelError
from vtagent.eyes import Vision
from vtagent.graphs.agent_zooms import Looking, looking_of, with_answers
from vtagent.graphs.budgets import after_call, in_view, spent
from vtagent.graphs.calls_of_reply import bounded, without_calls_of
from vtagent.graphs.intake import without_lost_images
from vtagent.graphs.model_call import ModelCall, ModelCalls, Tool, name_of_tool
from vtagent.graphs.node import Parts
from vtagent.graphs.sight import Sight
from vtagent.graphs.state import ZoomContext, settings_of
from vtagent.graphs.tool_calls import without_calls
from vtagent.models.capabilities import reads_references
from vtagent.models.runnables import AnyModel, Toolable, chat_models, resolved


@dataclass(frozen=True)
class AgentTurn:
    """One call of an agent's model, ready to be made."""

    request: ModelRequest[Any]
    """What LangChain is to send."""
    call: ModelCall | None
    """None if the model sees no image: its reply then stays as LangChain left it."""
    looking: Looking
    """What the run has looked at, as of this call."""
    settings: ZoomContext
    tool_name: str
    alone: bool
    """Whether the agent has no other tool, so that all calls but zooms are mistakes."""

    def finish(self, response: ModelResponse[Any], seconds: float) -> ExtendedModelResponse[Any]:
        """The response with its replies in the form that LangGraph acts on, and an update of the run's usage.

        Args:
            response: What the model answered.
            seconds: How long the call took.
        """
        looking = self.looking
        result: list[BaseMessage] = []
        for message in response.result:
            if not isinstance(message, ToolMessage):  # structured output adds one; some servers answer as "user"
                message = self._reply(message)
            if isinstance(message, AIMessage):
                looking = {**looking, "usage": after_call(looking["usage"], message, seconds)}
            result.append(message)
        return ExtendedModelResponse(replace(response, result=result), Command(update={"zoom": looking}))

    def _reply(self, message: BaseMessage) -> BaseMessage:
        if self.call is not None:
            message = self.call.reply(message)
        if not isinstance(message, AIMessage):
            return message
        zoom, usage = self.tool_name, self.looking["usage"]
        # Whoever zooms on after all mistakes are used up would do so for ever; the agent's other tools go on.
        if self.looking["stop"] and usage["mistakes"] > self.settings.max_mistakes:
            if self.alone:
                return without_calls(message)
            message = without_calls_of(message, zoom, unreadable=self.call is not None)
        ours = {zoom} if self.call is None else {zoom, None}
        return bounded(message, self.settings.max_calls, tool_name=zoom, only=ours)


class ImageRequest(ModelRequest[Any]):
    """The request of a call in which the model sees images. A model that other middleware puts in place sees them, too.

    `ModelFallbackMiddleware` and middleware that chooses the model replace it with `override`. Listed after
    `ZoomMiddleware`, they would else send references, which no provider can read.
    """

    vtagent_calls: Any = None

    @classmethod
    def of(cls, request: ModelRequest[Any], calls: ModelCalls) -> ImageRequest:
        """The same request, whose later models are given pixels by `calls`."""
        made = cls.__new__(cls)
        made.__dict__.update(request.__dict__)
        object.__setattr__(made, "vtagent_calls", calls)
        return made

    def override(self, **overrides: Any) -> ModelRequest[Any]:
        """As `ModelRequest.override`.

        Args:
            overrides: As for `ModelRequest.override`.
        """
        if "model" in overrides:
            overrides["model"] = _as_langchain_takes_it(self.vtagent_calls.with_pixels(resolved(overrides["model"])))
        return ImageRequest.of(super().override(**overrides), self.vtagent_calls)


class AgentTurns:
    """Prepares the calls of an agent's model.

    Args:
        parts: The middleware's parts.
        sight: What a call of the model is shown.
    """

    def __init__(self, parts: Parts, sight: Sight) -> None:
        self._parts, self._sight = parts, sight
        self._calls = ModelCalls(parts, prompt_first=False, pixels=sight.pixels)

    def prepare(self, request: ModelRequest[Any]) -> AgentTurn:
        """Prepare the call that LangChain is about to make.

        Raises:
            ModelError: The model sees other image sizes than the middleware was made for, or takes no zoom bias.
        """
        parts, name = self._parts, self._parts.tool_name
        settings = settings_of(getattr(request.runtime, "context", None), parts.defaults)
        others = [tool for tool in request.tools if name_of_tool(tool) != name]
        known = {str(name_of_tool(tool)) for tool in others}
        usage = with_answers(looking_of(request.state), request.state["messages"], tool_name=name, others=known)
        stop = spent(usage, settings) if settings.max_zooms else None
        only_zooms = not others and request.response_format is None
        system = request.system_message
        said = [*request.messages, system] if system else request.messages
        if not any(image_blocks(said)):
            looking = Looking(views=[], usage={**usage, "visual_tokens": 0, "full_visual_tokens": 0}, stop=stop)
            changed = self._readable(_without_zoom(request, others, settings))
            return AgentTurn(changed, None, looking, settings, name, only_zooms)
        model = resolved(settings.model or request.model)
        # A model that has nothing but zooms keeps the tool when it must answer: the prompt's prefix stays as it was.
        offered = settings.max_zooms > 0 and (only_zooms or not stop)
        messages = self._sight.of(
            without_lost_images(request.messages, parts.store),
            model,
            settings,
            tool_name=name if offered and not stop else None,
            system=system,
            numbered=without_lost_images(request.state["messages"], parts.store),
        )
        eyes = parts.eyes(model)
        views, usage = in_view(messages, usage, parts.store, tool_name=name, eyes=eyes)
        offered = offered and bool(views)
        for each in chat_models(model):
            _check_vision(each, eyes.vision)
        zoom_tool = parts.zoom_tool_for(eyes, messages)
        tools = [_in_place_of(tool, zoom_tool) if name_of_tool(tool) == name else tool for tool in request.tools]
        call = self._calls.prepare(
            model,
            messages,
            settings,
            system=system,
            prompt=parts.prompt_for(settings, eyes) if offered else None,
            tools=tools if offered else _with_cache_mark(others, request.tools),
            zoom_offered=offered,
            stop=stop,
            must_answer=bool(offered and stop),
        )
        changes: dict[str, Any] = {
            "model": _as_langchain_takes_it(call.ready.reader),
            "system_message": call.system,
            "messages": call.messages,
            "tools": list(call.ready.tools),
            "model_settings": {**request.model_settings, **call.options},
        }
        if call.must_answer and call.ready.tool_choice:
            changes["tool_choice"] = call.ready.tool_choice
        changed = ImageRequest.of(request.override(**changes), self._calls)
        looking = Looking(views=views, usage=usage, stop=stop, eyes=parts.name_of(eyes))
        return AgentTurn(changed, call, looking, settings, name, only_zooms)

    def _readable(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        """The request without what its model cannot read; itself if its model reads all of it.

        Raises:
            ImageRefused: As `ModelCalls.readable`.
        """
        system = request.system_message
        said = [*request.messages, system] if system else request.messages
        if all(isinstance(message.content, str) for message in said):
            return request
        system, messages = self._calls.readable(request.model, system, request.messages)
        if system is request.system_message and all(
            new is old for new, old in zip(messages, request.messages, strict=True)
        ):
            return request
        told: list[Any] = list(messages)
        return request.override(system_message=system, messages=told)


def _without_zoom(request: ModelRequest[Any], others: list[Tool], settings: ZoomContext) -> ModelRequest[Any]:
    """The request of a call in which there is nothing to zoom into; itself where nothing has to change."""
    changes: dict[str, Any] = {}
    if len(others) < len(request.tools):
        changes["tools"] = _with_cache_mark(others, request.tools)
    if settings.model is not None:
        changes["model"] = resolved(settings.model)
    model = changes.get("model", request.model)
    if not hasattr(model, "bind_tools"):  # such as a model with retries
        changes["model"] = _as_langchain_takes_it(model)
    return request.override(**changes) if changes else request


def _as_langchain_takes_it(model: AnyModel) -> Any:
    """The model with `bind_tools` and the attributes that LangChain asks for."""
    return model if isinstance(model, BaseChatModel) else Toolable(bound=model)


def _in_place_of(tool: Tool, zoom_tool: BaseTool) -> BaseTool:
    """The zoom tool as the model of the call knows it, with the mark for a provider's cache that `tool` had."""
    if tool is zoom_tool or not isinstance(tool, BaseTool) or not tool.extras:
        return zoom_tool
    return zoom_tool.model_copy(update={"extras": {**(zoom_tool.extras or {}), **tool.extras}})


def _with_cache_mark(tools: list[Tool], all_tools: Sequence[Tool]) -> list[Tool]:
    """The tools, the last with the mark for a provider's cache that the last of all tools had."""
    last = all_tools[-1] if all_tools else None
    if not tools or tools[-1] is last or not isinstance(last, BaseTool) or not isinstance(tools[-1], BaseTool):
        return tools
    if (mark := (last.extras or {}).get("cache_control")) is None:
        return tools
    extras = {**(tools[-1].extras or {}), "cache_control": mark}
    return [*tools[:-1], tools[-1].model_copy(update={"extras": extras})]


def _check_vision(model: BaseChatModel, vision: Vision) -> None:
    """Refuse image sizes that a model which renders references itself does not see."""
    if reads_references(model) and getattr(model, "vision", vision) != vision:
        raise ModelError(
            f"the middleware was made for other image sizes than {type(model).__name__} sees: "
            "without vision= and eyes= it takes them from the model"
        )
