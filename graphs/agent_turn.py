"""Prepares the calls of an agent's model, offers zooms as the budgets allow, and counts what each call costs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from langchain.agents.middleware import ModelRequest, ModelResponse
from langchain.agents.middleware.types import ExtendedModelResponse
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage, ToolMessage
from langchain_core.tools import BaseTool
from langgraph.types import Command

from vtagent.conversation import newest_in_sight
from vtagent.errors import ModelError
from vtagent.eyes import Vision
from vtagent.graphs.agent_zooms import Looking, looking_of, with_answers
from vtagent.graphs.budgets import after_call, in_view, spent
from vtagent.graphs.intake import without_lost_images
from vtagent.graphs.model_call import ModelCall, ModelCalls
from vtagent.graphs.node import Parts
from vtagent.graphs.state import settings_of
from vtagent.models.capabilities import reads_references


@dataclass(frozen=True)
class AgentTurn:
    """One call of an agent's model, ready to be made."""

    request: ModelRequest[Any]
    """What LangChain is to send."""
    call: ModelCall
    looking: Looking
    """What the run has looked at, as of this call."""

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
                message = self.call.reply(message)
                looking = {**looking, "usage": after_call(looking["usage"], message, seconds)}
            result.append(message)
        return ExtendedModelResponse(replace(response, result=result), Command(update={"zoom": looking}))


class AgentTurns:
    """Prepares the calls of an agent's model.

    Args:
        parts: The middleware's parts.
        keep_images: As for `ZoomMiddleware`.
    """

    def __init__(self, parts: Parts, keep_images: int | None) -> None:
        self._parts, self._keep_images = parts, keep_images
        self._calls = ModelCalls(parts, prompt_first=False)

    def prepare(self, request: ModelRequest[Any]) -> AgentTurn:
        """Prepare the call that LangChain is about to make.

        Raises:
            ModelError: The model sees other image sizes than the middleware was made for, or takes no zoom bias.
        """
        parts, name = self._parts, self._parts.tool_name
        settings = settings_of(request.runtime.context, parts.defaults)
        model = settings.model or request.model
        others = [tool for tool in request.tools if _name(tool) != name]
        known = {str(_name(tool)) for tool in others}
        usage = with_answers(looking_of(request.state), request.state["messages"], tool_name=name, others=known)
        stop = spent(usage, settings) if settings.max_zooms else None
        # A model that has nothing but zooms keeps the tool when it must answer: the prompt's prefix stays as it was.
        only_zooms = not others and request.response_format is None
        offered = settings.max_zooms > 0 and (only_zooms or not stop)
        messages = newest_in_sight(
            without_lost_images(request.messages, parts.store),
            self._keep_images,
            tool_name=name if offered and not stop else None,
            numbered=without_lost_images(request.state["messages"], parts.store),
        )
        eyes = parts.eyes(model)
        views, usage = in_view(messages, usage, parts.store, tool_name=name, eyes=eyes)
        offered = offered and bool(views)
        _check_vision(model, eyes.vision)
        zoom_tool = parts.zoom_tool_for(eyes, messages)
        call = self._calls.prepare(
            model,
            messages,
            settings,
            system=request.system_message,
            prompt=parts.prompt_for(settings, eyes) if offered else None,
            tools=[zoom_tool if _name(tool) == name else tool for tool in request.tools] if offered else others,
            zoom_offered=offered,
            stop=stop,
            must_answer=bool(offered and stop),
        )
        changes: dict[str, Any] = {
            "model": call.ready.reader,
            "system_message": call.system,
            "messages": call.messages,
            "tools": list(call.ready.tools),
            "model_settings": {**request.model_settings, **call.options},
        }
        if call.must_answer and call.ready.tool_choice:
            changes["tool_choice"] = call.ready.tool_choice
        looking = Looking(views=views, usage=usage, stop=stop, eyes=parts.name_of(eyes))
        return AgentTurn(request.override(**changes), call, looking)


def _check_vision(model: BaseChatModel, vision: Vision) -> None:
    """Refuse image sizes that a model which renders references itself does not see."""
    if reads_references(model) and getattr(model, "vision", vision) != vision:
        raise ModelError(
            f"the middleware was made for other image sizes than {type(model).__name__} sees: "
            "without vision= and eyes= it takes them from the model"
        )


def _name(tool: BaseTool | dict[str, Any]) -> str | None:
    return tool.get("name") if isinstance(tool, dict) else tool.name
