"""Prepares one call of a chat model: what it is shown, which tools it is offered, and how pixels reach it.

The node `decide` and `ZoomMiddleware` both prepare their calls here. `ChatVLM` reads references itself. Any other model
is given pixels below LangChain's callbacks (`vtagent.models.pixel_model`): state, streams and traces still see
references alone. A model that is shown no image is called as it is. What a given model can do is asked of
`vtagent.models.capabilities`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages.tool import tool_call
from langchain_core.runnables import Runnable, RunnableBinding
from langchain_core.tools import BaseTool

from vtagent.conversation import image_blocks, images_of, name_of, shown_views
from vtagent.eyes import Eyes
from vtagent.graphs.budgets import Stop
from vtagent.graphs.calls_of_reply import with_untagged_calls
from vtagent.graphs.intake import readable, without_blanks, without_lost_images
from vtagent.graphs.node import Parts
from vtagent.graphs.state import ZoomContext
from vtagent.graphs.tool_calls import structured, with_answer, without_calls
from vtagent.images import ImageStore
from vtagent.models.capabilities import can_be_forbidden, reads_of, reads_references, store_of, zoom_bias_options
from vtagent.models.pixel_model import Pixels, with_pixels
from vtagent.models.runnables import AnyModel, bind_tools, chat_models
from vtagent.views import View, is_reference

NOT_RUN = "This call was not run."
"""What the model is told in answer to a call that has no other answer."""

_KEPT = 16  # a graph or an agent rarely serves more models and sets of tools than a few

Caller: TypeAlias = Runnable[LanguageModelInput, AIMessage]
Tool: TypeAlias = BaseTool | dict[str, Any]


@dataclass(frozen=True)
class ReadyModel:
    """A model made ready for references and for a set of tools; kept from call to call."""

    model: AnyModel
    """The model as it was given."""
    reader: Any
    """The model itself if it reads references or is shown none, else the same model given pixels."""
    stores: tuple[ImageStore, ...]
    """Where the chat models in it look images up, if that is not the graph's own store."""
    tools: tuple[Tool, ...]
    """The tools that it is offered."""
    tool_choice: str | None
    """"none" if calls are forbidden and the model knows this choice."""

    @cached_property
    def bound(self) -> tuple[Caller, dict[str, Any]]:
        """The reader with its tools: what to call, and with which options.

        Raises:
            ModelError: The model cannot be given tools.
        """
        options = {} if self.tool_choice is None else {"tool_choice": self.tool_choice}
        if not self.tools:
            return self.reader, options
        return _unwrapped(bind_tools(self.reader, list(self.tools), **options))


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
        reply = message if isinstance(message, AIMessage) else structured(message)
        reply = with_untagged_calls(reply, self._names)
        return with_answer(without_calls(reply) if self.must_answer else structured(reply))

    @property
    def _names(self) -> set[str]:
        return {name for tool in self.ready.tools if (name := name_of_tool(tool))}


class ModelCalls:
    """Prepares the calls of one graph or of one agent.

    Args:
        parts: The parts of the graph or the agent.
        prompt_first: Whether the prompt stands before the text of the conversation's system message, or after it.
        pixels: What a model is given in place of references.
    """

    def __init__(self, parts: Parts, *, prompt_first: bool, pixels: Pixels) -> None:
        self._parts, self._prompt_first, self._pixels = parts, prompt_first, pixels
        self._kept: dict[tuple[Any, ...], ReadyModel] = {}

    def prepare(
        self,
        model: AnyModel,
        messages: Sequence[BaseMessage],
        settings: ZoomContext,
        *,
        system: SystemMessage | None,
        prompt: str | SystemMessage | None,
        tools: Sequence[Tool],
        zoom_offered: bool,
        stop: Stop | None,
        must_answer: bool,
    ) -> ModelCall:
        """Prepare one call.

        Args:
            model: The model to call, resolved.
            messages: The conversation without its system message and without lost images. Never modified.
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
        models = chat_models(model)
        system, messages = self.readable(model, system, messages)
        if not any(reads_references(each) for each in models):  # a `ChatVLM` repeats its own blanks token by token
            messages = without_blanks(messages)
        if system is not None:
            system = without_lost_images([system], store)[0]
        if prompt is not None:
            system = _with_prompt(system, prompt, first=self._prompt_first)
        sees = any(image_blocks([*messages, *([system] if system else ())]))
        ready = self._ready(model, tools, must_answer, sees)
        told = with_open_calls_answered(messages)
        if not any(reads_references(each) for each in models):
            told = with_readable_calls(told, self._parts.tool_name)
        eyes = self._parts.eyes(model)
        if sees and eyes.boxes == "pixels as shown":
            told = with_sizes_said(told, eyes, store, tool_name=self._parts.tool_name)
        # Fallbacks get the same messages, so the strictest of the models decides.
        readers: Sequence[AnyModel] = models or [model]
        if sees and any(self._parts.eyes(each).tool_images != "tool message" for each in readers):
            told = after_tool_messages(told)
        options: dict[str, Any] = {}
        if settings.zoom_bias and zoom_offered and not stop:
            for each in models:
                options |= zoom_bias_options(each, settings.zoom_bias, settings.zoom_token_id)
        for theirs in ready.stores if sees else ():
            _share_images([*told, *([system] if system else ())], store, theirs)
        return ModelCall(ready, system, told, options, stop, must_answer)

    @staticmethod
    def readable(
        model: AnyModel, system: SystemMessage | None, messages: Sequence[BaseMessage]
    ) -> tuple[SystemMessage | None, Sequence[BaseMessage]]:
        """The system message and the conversation, with notes in place of what the model, or a fallback, cannot read.

        Args:
            model: The model, resolved.
            system: The system message, if any.
            messages: The conversation without it. Never modified.

        Raises:
            ImageRefused: The newest message holds what one of the models cannot read.
        """
        said = [*([system] if system else ()), *messages]
        told = readable(said, reads_of(model), reads_of(model, from_tools=True))
        if system is None:
            return None, told
        first = told[0]
        assert isinstance(first, SystemMessage)
        return first, told[1:]

    def with_pixels(self, model: AnyModel) -> Any:
        """A model that other middleware puts in place of the one of a call, given pixels as that one is."""
        return with_pixels(model, self._pixels)

    def _ready(self, model: AnyModel, tools: Sequence[Tool], must_answer: bool, sees: bool) -> ReadyModel:
        # What is kept holds on to the model and the tools, so that their ids stay theirs.
        key = (id(model), must_answer, sees, *map(id, tools))
        if (known := self._kept.get(key)) is not None:
            return known
        models = chat_models(model)
        readers = [each for each in models if reads_references(each)]
        stores = tuple(own for each in readers if (own := store_of(each, self._parts.store)) is not self._parts.store)
        # Without tools, too: a `ChatVLM` may have learned to call a tool that it is not offered.
        forbidden = bool(models) and len(readers) == len(models)
        if tools:
            forbidden = must_answer and bool(models) and all(can_be_forbidden(each, tools) for each in models)
        reader = with_pixels(model, self._pixels) if sees else model
        if len(self._kept) >= _KEPT:
            self._kept.clear()
        choice = "none" if forbidden else None
        ready = self._kept[key] = ReadyModel(model, reader, stores, tuple(tools), choice)
        return ready


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
    numbers = {ref.id: number for number, ref in enumerate(images_of(shown), 1)}

    def said(block: Any) -> list[Any]:
        if not (isinstance(block, dict) and is_reference(block)):
            return [block]
        view = View.from_block(block, store)
        width, height = view.size(vision)
        text = f"Image {numbers[view.ref.id]}, shown at {width} × {height}."
        return [{"type": "text", "text": text}, block]

    return [
        message.model_copy(update={"content": [part for block in message.content for part in said(block)]})
        if isinstance(message, ToolMessage) and message.name != tool_name and any(image_blocks([message]))
        else message
        for message in messages
    ]


def name_of_tool(tool: Tool) -> str | None:
    """A tool's name; None for a provider's own tool that has none."""
    if isinstance(tool, BaseTool):
        return tool.name
    function = tool.get("function")
    name = function.get("name") if isinstance(function, dict) else tool.get("name")
    return name if isinstance(name, str) else None


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


def with_readable_calls(messages: Sequence[BaseMessage], tool_name: str) -> list[BaseMessage]:
    """The messages with a call without arguments in place of each call that could not be read.

    Each provider's package writes unreadable calls in its own way, or leaves them out, and their servers then refuse
    the answers, or do not see them. The answer says what was wrong.

    Args:
        messages: Never modified.
        tool_name: What an unreadable call without a name is taken for.
    """
    told: list[BaseMessage] = []
    for message in messages:
        if isinstance(message, AIMessage) and message.invalid_tool_calls:
            read = [
                tool_call(name=bad["name"] or tool_name, args={}, id=bad["id"]) for bad in message.invalid_tool_calls
            ]
            update = {"tool_calls": [*message.tool_calls, *read], "invalid_tool_calls": []}
            message = message.model_copy(update=update)
        told.append(message)
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


def _with_prompt(message: SystemMessage | None, prompt: str | SystemMessage, *, first: bool) -> SystemMessage:
    """The conversation's system message and ours as one, since many chat templates read only one."""
    ours = prompt.content if isinstance(prompt, SystemMessage) else prompt
    if message is None:
        return prompt if isinstance(prompt, SystemMessage) else SystemMessage(prompt)
    theirs = message.content
    content: str | list[str | dict[str, Any]]
    if isinstance(theirs, str) and isinstance(ours, str):
        content = f"{ours}\n\n{theirs}" if first else f"{theirs}\n\n{ours}"
    elif first:
        content = [*_blocks(ours, end="\n\n"), *_blocks(theirs)]
    else:
        content = [*_blocks(theirs, end="\n\n"), *_blocks(ours)]
    return message.model_copy(update={"content": content})


def _blocks(content: str | list[str | dict[str, Any]], end: str = "") -> list[str | dict[str, Any]]:
    """The content as blocks; `end` is added to a content that is a text."""
    return [{"type": "text", "text": content + end}] if isinstance(content, str) else content


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
