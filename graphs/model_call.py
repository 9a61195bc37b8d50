"""Prepares one call of a chat model: what it is shown, which tools it is offered, and how pixels reach it.

The node `decide` and `ZoomMiddleware` both prepare their calls here. `ChatVLM` reads references itself. Any other chat
model is wrapped in `PixelModel`, which puts the pixels in below LangChain's callbacks: state, streams and traces still
see references alone. What a given model can do is asked of `vtagent.models.capabilities`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.runnables import Runnable, RunnableBinding
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from vtagent.conversation import image_blocks, images_of, name_of, shown_views
from vtagent.errors import ModelError
from vtagent.eyes import Eyes, Vision
from vtagent.graphs.budgets import Stop
from vtagent.graphs.intake import readable, without_blanks, without_lost_images
from vtagent.graphs.node import Parts
from vtagent.graphs.state import ZoomContext
from vtagent.graphs.tool_calls import structured, with_answer, without_calls
from vtagent.images import ImageStore
from vtagent.models.capabilities import can_be_forbidden, reads_of, reads_references, store_of, zoom_bias_options
from vtagent.models.pixel_model import PixelModel
from vtagent.views import View, ViewRenderer, is_reference

NOT_RUN = "This call was not run."
"""What the model is told in answer to a call that has no other answer."""

_KEPT_RENDERERS = 4  # each keeps pixels
_KEPT = 16  # a graph or an agent rarely serves more models and sets of tools than a few

Caller: TypeAlias = Runnable[LanguageModelInput, AIMessage]
Tool: TypeAlias = BaseTool | dict[str, Any]


@dataclass(frozen=True)
class ReadyModel:
    """A chat model made ready for references and for a set of tools; kept from call to call."""

    model: BaseChatModel
    """The model as it was given."""
    reader: BaseChatModel
    """The model itself if it reads references, else the `PixelModel` around it."""
    store: ImageStore
    """Where the reader looks images up."""
    tools: tuple[Tool, ...]
    """The tools that it is offered."""
    tool_choice: str | None
    """"none" if calls are forbidden and the model knows this choice."""

    @cached_property
    def tool_names(self) -> list[str]:
        """The names of the tools."""
        return [convert_to_openai_tool(tool)["function"]["name"] for tool in self.tools]

    @cached_property
    def bound(self) -> tuple[Caller, dict[str, Any]]:
        """The reader with its tools: what to call, and with which options.

        Raises:
            ModelError: The model cannot be given tools.
        """
        options = {} if self.tool_choice is None else {"tool_choice": self.tool_choice}
        if not self.tools:
            return self.reader, options
        try:
            return _unwrapped(self.reader.bind_tools(list(self.tools), **options))
        except NotImplementedError as error:
            raise ModelError(f"{type(self.model).__name__} cannot be given tools: it has no bind_tools") from error


@dataclass(frozen=True)
class ModelCall:
    """One call of a model, ready to be made."""

    ready: ReadyModel
    system: SystemMessage | None
    messages: list[BaseMessage]
    """The conversation, without the system message."""
    options: dict[str, Any]
    """Options of the call beside tools and tool choice."""
    stop: Stop | None
    """The budget that is spent."""
    must_answer: bool
    """Whether the reply has to be an answer, so that its calls are dropped."""

    def reply(self, message: BaseMessage) -> AIMessage:
        """The model's reply in the form that the graph acts on: storable, and a final one with its clean answer."""
        if self.must_answer:
            return with_answer(without_calls(message))
        return with_answer(structured(message, self.ready.tool_names))


class ModelCalls:
    """Prepares the calls of one graph or of one agent.

    Args:
        parts: The parts of the graph or the agent.
        prompt_first: Whether the prompt stands before the text of the conversation's system message, or after it.
    """

    def __init__(self, parts: Parts, *, prompt_first: bool) -> None:
        self._parts, self._prompt_first = parts, prompt_first
        self._renderers: dict[Vision, ViewRenderer] = {}
        self._kept: dict[tuple[Any, ...], ReadyModel] = {}

    def prepare(
        self,
        model: BaseChatModel,
        messages: Sequence[BaseMessage],
        settings: ZoomContext,
        *,
        system: SystemMessage | None,
        prompt: str | None,
        tools: Sequence[Tool],
        zoom_offered: bool,
        stop: Stop | None,
        must_answer: bool,
    ) -> ModelCall:
        """Prepare one call.

        Args:
            model: The model to call.
            messages: The conversation without its system message. Never modified.
            settings: The settings of the run.
            system: The system message of the conversation, if any.
            prompt: What is added to it.
            tools: All tools that are offered.
            zoom_offered: Whether the zoom tool is one of them.
            stop: The budget that is spent, if any.
            must_answer: Whether the reply has to be an answer.

        Raises:
            ImageRefused: As `readable`.
            ModelError: The model takes no zoom bias, though the settings have one.
        """
        store = self._parts.store
        reads = reads_of(model), reads_of(model, from_tools=True)
        messages = readable([*([system] if system else ()), *messages], *reads)
        if system is not None:
            system, messages = messages[0], messages[1:]  # type: ignore[assignment]
        if not reads_references(model):  # a `ChatVLM` repeats its own blank replies token by token
            messages = without_blanks(messages)
        told = with_open_calls_answered(without_lost_images(messages, store))
        eyes = self._parts.eyes(model)
        if eyes.boxes == "pixels as shown":
            told = with_sizes_said(told, eyes, store, tool_name=self._parts.tool_name)
        if eyes.tool_images != "tool message":
            told = after_tool_messages(told)
        if system is not None:
            system = without_lost_images([system], store)[0]
        if prompt is not None:
            system = _with_prompt(system, prompt, first=self._prompt_first)
        options: dict[str, Any] = {}
        if settings.zoom_bias and zoom_offered and not stop:
            options = zoom_bias_options(model, settings.zoom_bias, settings.zoom_token_id)
        ready = self._ready(model, tools, must_answer)
        if ready.store is not store:
            _share_images([*told, *([system] if system else ())], store, ready.store)
        return ModelCall(ready, system, told, options, stop, must_answer)

    def _ready(self, model: BaseChatModel, tools: Sequence[Tool], must_answer: bool) -> ReadyModel:
        # What is kept holds on to the model and the tools, so that their ids stay theirs.
        key = (id(model), must_answer, *map(id, tools))
        if (known := self._kept.get(key)) is not None:
            return known
        reader, store = model, self._parts.store
        if reads_references(model):
            store = store_of(model, store)
        else:
            eyes = self._parts.eyes(model)
            reader = PixelModel.over(model, store, eyes, renderer=self._renderer(eyes.vision))
        # Without tools, too: a `ChatVLM` may have learned to call a tool that it is not offered.
        forbidden = must_answer and can_be_forbidden(model, tools) if tools else reads_references(model)
        if len(self._kept) >= _KEPT:
            self._kept.clear()
        ready = self._kept[key] = ReadyModel(model, reader, store, tuple(tools), "none" if forbidden else None)
        return ready

    def _renderer(self, vision: Vision) -> ViewRenderer:
        """Renders views as a model sees them; kept, so that views are rendered once."""
        if (renderer := self._renderers.get(vision)) is None:
            if len(self._renderers) >= _KEPT_RENDERERS:
                self._renderers.clear()
            renderer = self._renderers[vision] = ViewRenderer(self._parts.store, vision)
        return renderer


def with_sizes_said(
    messages: Sequence[BaseMessage], eyes: Eyes, store: ImageStore, *, tool_name: str
) -> list[BaseMessage]:
    """The messages with a sentence before each image of another tool: its size, in which the model writes boxes.

    The sizes of users' images are in the zoom tool's description, and those of zooms in the zoom tool's answers.

    Args:
        messages: Without lost images. Never modified.
        eyes: How the model sees.
        store: Where the images are.
        tool_name: The zoom tool's name.
    """
    shown = [view for view, _ in shown_views(messages, store)]
    vision = eyes.vision_for(len(shown))
    numbers = {ref.sha256: number for number, ref in enumerate(images_of(shown), 1)}

    def said(block: Any) -> list[Any]:
        if not (isinstance(block, dict) and is_reference(block)):
            return [block]
        view = View.from_block(block, store)
        width, height = view.size(vision)
        text = f"Image {numbers[view.ref.sha256]}, shown at {width} × {height}."
        return [{"type": "text", "text": text}, block]

    return [
        message.model_copy(update={"content": [part for block in message.content for part in said(block)]})
        if isinstance(message, ToolMessage) and message.name != tool_name and any(image_blocks([message]))
        else message
        for message in messages
    ]


def with_open_calls_answered(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """The messages with a sentence in answer to each call that has none.

    Servers refuse a conversation with open calls. Calls stay open if a run was killed, or if a person asks something
    new instead of approving a zoom.
    """
    told: list[BaseMessage] = []
    answered = {message.tool_call_id for message in messages if isinstance(message, ToolMessage)}
    for message in messages:
        told.append(message)
        if isinstance(message, AIMessage):
            told += [
                ToolMessage(NOT_RUN, name=call["name"], tool_call_id=call["id"] or "", status="error")
                for call in (*message.tool_calls, *message.invalid_tool_calls)
                if call["id"] not in answered
            ]
    return told


def after_tool_messages(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """The messages with the images of tool messages moved to a user message after the whole batch of tool messages.

    Most APIs take text alone from a tool, and want every call of a reply answered before anything else is said.
    """
    told: list[BaseMessage] = []
    waiting: list[Any] = []
    for message in messages:
        if waiting and not isinstance(message, ToolMessage):
            told.append(HumanMessage(waiting))
            waiting = []
        if isinstance(message, ToolMessage) and isinstance(message.content, list):
            images = [block for block in message.content if isinstance(block, dict) and is_reference(block)]
            if images:
                rest = [block for block in message.content if block not in images]
                rest.append({"type": "text", "text": "The image follows in the next user message."})
                waiting += [{"type": "text", "text": f"From {message.name or 'the tool'}:"}, *images]
                message = message.model_copy(update={"content": rest})
        told.append(message)
    return [*told, HumanMessage(waiting)] if waiting else told


def _with_prompt(message: SystemMessage | None, prompt: str, *, first: bool) -> SystemMessage:
    """The conversation's system message and ours as one, since many chat templates read only one."""
    if message is None:
        return SystemMessage(prompt)
    theirs = message.content
    content: str | list[str | dict[str, Any]]
    if isinstance(theirs, str):
        content = f"{prompt}\n\n{theirs}" if first else f"{theirs}\n\n{prompt}"
    elif first:
        content = [{"type": "text", "text": f"{prompt}\n\n"}, *theirs]
    else:
        content = [*theirs, {"type": "text", "text": prompt}]
    return message.model_copy(update={"content": content})


def _share_images(messages: Sequence[BaseMessage], store: ImageStore, theirs: ImageStore) -> None:
    """Copy the images in the messages into the store of a model that reads references from its own."""
    for name in {name_of(block["url"]) for _, block in image_blocks(messages)}:
        if name not in theirs:
            theirs.put(store.get(name))


def _unwrapped(bound: Caller) -> tuple[Caller, dict[str, Any]]:
    """A plain binding as the model and its options: the same call, without merging configs each time."""
    if not isinstance(bound, RunnableBinding) or bound.config or bound.config_factories:
        return bound, {}
    if type(bound).invoke is not RunnableBinding.invoke or type(bound).ainvoke is not RunnableBinding.ainvoke:
        return bound, {}
    return bound.bound, dict(bound.kwargs)
