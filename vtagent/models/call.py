"""One call of a chat model: turns messages and options into an engine request, and its generation into a message."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from secrets import token_hex
from typing import Any, ClassVar

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from vtagent.errors import ModelError
from vtagent.images import ImageStore
from vtagent.models.codec import Codec, Detokenizer
from vtagent.models.decision import in_thought, reply_opening
from vtagent.models.engine import EngineImage, Generation, Request, Sampling
from vtagent.models.records import KEY, known_prefix, make_record, prefix_hashes
from vtagent.models.streaming import ReplyStreamer, cut, to_message, usage
from vtagent.models.template import to_template, views_of, with_images_first, with_references
from vtagent.protocol import THINK, TOOL_CALL
from vtagent.views import View, ViewRenderer
from vtagent.visual_tokens import VisionSpec

_MARK = f"reply-{token_hex(16)}"
"""Replaces the last recorded reply while the text after it is rendered; random, so that no message contains it."""


@dataclass(frozen=True)
class Options:
    """The options of one call, including the model's defaults."""

    defaults: ClassVar[tuple[str, ...]] = ("temperature", "top_p", "top_k", "repetition_penalty", "max_tokens", "seed")
    _others: ClassVar[frozenset[str]] = frozenset({"tools", "tool_choice", "zoom_bias", "logit_bias", "prefill"})

    sampling: Sampling
    stops: tuple[str, ...]
    """Texts that end the reply."""
    tools: tuple[Mapping[str, Any], ...]
    """OpenAI-style schemas."""
    calls_allowed: bool = True
    prefill: str = ""
    """The beginning of the reply that the caller gives."""
    forced_call: str = ""
    """The beginning of a call that is forced."""
    zoom_bias: float = 0.0
    """Added to the log-odds of a call, at the decision alone; see `vtagent.models.decision`."""

    @classmethod
    def of(cls, given: Mapping[str, Any], stops: Sequence[str]) -> Options:
        """Read the options of a call as LangChain passes them; unknown ones, such as labels for tracing, are ignored.

        Args:
            given: The call's options over the model's defaults.
            stops: Texts that end the reply.

        Raises:
            ModelError: The tool choice names a tool that is not offered.
        """
        tools = tuple(given.get("tools") or ())
        choice = _choice(given.get("tool_choice"))
        names = [tool["function"]["name"] for tool in tools]
        forced_call = ""
        if choice not in (None, "auto", "none"):
            if not tools or (choice != "any" and choice not in names):
                raise ModelError(f"tool_choice {choice!r} needs that tool; offered are: {', '.join(names) or 'none'}")
            forced_call = TOOL_CALL[0]
            if choice != "any" and len(tools) > 1:
                forced_call += f'\n{{"name": {json.dumps(choice)}, "arguments": '
        return cls(
            sampling=Sampling(
                temperature=given["temperature"],
                top_p=given["top_p"],
                top_k=given["top_k"],
                repetition_penalty=given["repetition_penalty"],
                max_tokens=given["max_tokens"],
                seed=given["seed"],
                logit_bias=dict(given.get("logit_bias") or {}),
            ),
            stops=tuple(stop for stop in stops if stop),
            tools=tools,
            prefill=given.get("prefill") or "",
            forced_call=forced_call,
            calls_allowed=choice != "none" and (bool(tools) or choice == "auto"),
            zoom_bias=float(given.get("zoom_bias") or 0.0),
        )


@dataclass(frozen=True)
class Call:
    """The engine request of one call, and everything needed to make a message of the generation."""

    request: Request
    codec: Codec
    stops: tuple[str, ...]
    forced: str
    new_ids: tuple[int, ...]
    """The ids of the prompt after the recorded turns."""
    prefix: str
    """The hash of everything before the reply, under which its record is valid."""

    def streamer(self) -> ReplyStreamer:
        """A new splitter of the reply into chunks of text."""
        return ReplyStreamer(self._detokenizer(), self.stops)

    def request_with(self, show: Callable[[int], None] | None) -> Request:
        """The request, with a token callback.

        Args:
            show: Called with each sampled token. The reply ends at the first stop text in any case.
        """
        if not self.stops:
            return replace(self.request, on_token=show)
        detokenizer = self._detokenizer()

        def watch(token: int) -> bool:
            if show is not None:
                show(token)
            text = detokenizer.push(token)
            return any(stop in text for stop in self.stops)

        return replace(self.request, on_token=watch)

    def message(self, generation: Generation, model_name: str) -> AIMessage:
        """Make the message of a reply, with its record.

        Args:
            generation: What the engine sampled.
            model_name: The name of the model, for the metadata.
        """
        text = cut(self.forced + self.codec.decode(generation.token_ids), self.stops)
        message = to_message(text)
        message.usage_metadata = usage(generation)
        record = make_record(
            message,
            start=len(self.request.token_ids) - len(self.new_ids),
            prompt_ids=self.new_ids,
            completion_ids=generation.token_ids,
            logprobs=generation.logprobs,
            prefix=self.prefix,
        )
        message.response_metadata = {
            "finish_reason": generation.finish_reason,
            "model_name": model_name,
            KEY: record,
        }
        return message

    def _detokenizer(self) -> Detokenizer:
        """A new detokenizer of the reply, which begins with the forced text."""
        return self.codec.detokenizer(self.forced)


@dataclass(frozen=True)
class Prompt:
    """The prompt of one call, its images not yet rendered."""

    known_ids: tuple[int, ...]
    """The recorded ids of what was said before."""
    new_ids: tuple[int, ...]
    """The ids of the template's text for the new messages, collapsed: one placeholder per image."""
    views: tuple[View, ...]
    """One per placeholder."""
    prefix: str
    """The hash of everything before the reply, under which its record is valid."""
    opening: str
    """The beginning of the reply that stands in the prompt: what the template opens, then what the call forces."""
    forced: str
    """The part of it that the reply's message begins with."""

    def tokens(self, vision: VisionSpec) -> int:
        """The length of the prompt with its images expanded, in tokens."""
        collapsed = len(self.known_ids) + len(self.new_ids) - len(self.views)
        return collapsed + sum(view.tokens(vision) for view in self.views)


def make_prompt(
    messages: Sequence[BaseMessage], options: Options, *, codec: Codec, store: ImageStore, images_first: bool
) -> Prompt:
    """Build the prompt of a call: the recorded ids of what was said before, then the text for the new messages.

    Args:
        messages: The conversation.
        options: The call's options.
        codec: The checkpoint's tokenizer and chat template.
        store: The store that holds the images of messages.
        images_first: Whether the images of a human message are shown before its text.

    Raises:
        ModelError: There are no messages, or the model cannot be shown one of them.
        ImageError: The store does not know an image, or refuses it.
    """
    if not messages:
        raise ModelError("the prompt is empty; send at least one message")
    messages = with_references(messages, store)
    if images_first:  # before hashing: a record belongs to what is shown, not to the order in which it was sent
        messages = with_images_first(messages)
    hashes = prefix_hashes(messages, f"{codec.fingerprint}{json.dumps(options.tools, sort_keys=True, default=str)}")
    known, covered = known_prefix(messages, hashes)
    text = _new_text(messages, covered, known, options, codec) + options.prefill
    # A call is not forced inside of a thought, which the template of a thinking model opens.
    end = f"\n{THINK[1]}\n\n" if options.forced_call and in_thought(reply_opening(text)) else ""
    text += end + options.forced_call
    forced = options.prefill + (end if options.prefill else "") + options.forced_call
    new_ids = codec.encode(text)
    views = views_of(messages, store)
    placeholders = [*known, *new_ids].count(codec.image_token_id)
    if placeholders != len(views):
        raise ModelError(
            f"the chat template shows {placeholders} of the conversation's {len(views)} images; "
            "it must write one <|image_pad|> for each"
        )
    return Prompt(tuple(known), tuple(new_ids), tuple(views), hashes[-1], reply_opening(text), forced)


def plan(
    messages: Sequence[BaseMessage],
    options: Options,
    *,
    codec: Codec,
    store: ImageStore,
    renderer: ViewRenderer,
    images_first: bool = True,
) -> Call:
    """Build a call.

    Args:
        messages: The conversation.
        options: The call's options.
        codec: The checkpoint's tokenizer and chat template.
        store: The store that holds the images of messages.
        renderer: Renders their views.
        images_first: Whether the images of a human message are shown before its text.

    Raises:
        ModelError: There are no messages, or the model cannot be shown one of them.
        ImageError: The store does not know an image, or refuses it.
    """
    prompt = make_prompt(messages, options, codec=codec, store=store, images_first=images_first)
    request = Request(
        token_ids=(*prompt.known_ids, *prompt.new_ids),
        images=_rendered(prompt.views, renderer),
        sampling=_sampling(options, codec, prompt.opening),
    )
    return Call(request, codec, options.stops, prompt.forced, prompt.new_ids, prompt.prefix)


def tool_options(
    tools: Sequence[Mapping[str, Any] | type | Callable[..., Any] | BaseTool],
    tool_choice: str | bool | Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Write tools and a tool choice as the call options that `Options.of` reads.

    Args:
        tools: Anything that LangChain can convert to a tool schema.
        tool_choice: As for `ChatVLM.bind_tools`; None leaves the option out.
    """
    schemas = [convert_to_openai_tool(tool) for tool in tools]
    return {"tools": schemas} if tool_choice is None else {"tools": schemas, "tool_choice": tool_choice}


def count_tokens(
    messages: Sequence[BaseMessage],
    tools: Sequence[Any] | None,
    *,
    codec: Codec,
    vision: VisionSpec,
    store: ImageStore,
    images_first: bool,
) -> int:
    """The length of the prompt of a call, in tokens, as its reply's usage reports it. Nothing is rendered or sampled.

    Args:
        messages: The conversation. An empty one has no prompt and counts 0.
        tools: The tools that are offered.
        codec: The checkpoint's tokenizer and chat template.
        vision: The image sizes that the model sees.
        store: The store that holds the images of messages. Images that messages contain as data are put there.
        images_first: Whether the images of a human message are shown before its text.

    Raises:
        ModelError: The model cannot be shown one of the messages.
        ImageError: The store does not know an image, or refuses it.
    """
    if not messages:
        return 0
    offered = tuple(tool_options(tools or (), None)["tools"])
    options = Options(Sampling(), stops=(), tools=offered)
    return make_prompt(messages, options, codec=codec, store=store, images_first=images_first).tokens(vision)


def shown_images(
    messages: Sequence[BaseMessage], *, store: ImageStore, renderer: ViewRenderer
) -> tuple[EngineImage, ...]:
    """Render the views that messages show, in the order of their placeholders.

    Args:
        messages: A conversation whose images are references, or bring their pixels along.
        store: Where the images are, and where new ones are put.
        renderer: Renders views of that store at the model's sizes.

    Raises:
        ImageError: An image that is unknown to the store, or that it refuses.
    """
    return _rendered(views_of(with_references(messages, store), store), renderer)


def _rendered(views: Sequence[View], renderer: ViewRenderer) -> tuple[EngineImage, ...]:
    return tuple(EngineImage(view.url, renderer.render(view)) for view in views)


def _new_text(
    messages: Sequence[BaseMessage], covered: int, known: Sequence[int], options: Options, codec: Codec
) -> str:
    """The part of the template's text that the recorded ids do not cover.

    Args:
        messages: The conversation, with references in place of image data.
        covered: Number of messages that `known` covers, the last one a reply; 0 renders all.
        known: The recorded ids.
        options: The call's options.
        codec: The checkpoint's tokenizer and chat template.

    Raises:
        ModelError: The template refuses the conversation, or drops the last covered reply.
    """
    rendered = to_template(messages, codec)
    if not covered:
        return codec.render(rendered, options.tools)
    rendered[covered - 1] = {"role": "assistant", "content": _MARK}
    _, mark, rest = codec.render(rendered, options.tools).rpartition(_MARK)
    if not mark:
        raise ModelError("the chat template drops a reply of the conversation, so what follows it cannot be rendered")
    if known[-1] in codec.end_ids:  # the model has sampled this token itself
        rest = rest.removeprefix(codec.token(known[-1]))
    return rest


def _sampling(options: Options, codec: Codec, opening: str) -> Sampling:
    """The engine's options of a call.

    Args:
        options: The call's options.
        codec: The checkpoint's tokenizer and chat template.
        opening: The beginning of the reply that stands in the prompt.

    Raises:
        ModelError: There is a zoom bias, and the tokenizer has no single token that opens a call.
    """
    call_id = codec.tool_call_id
    call_bias = codec.call_bias(options.zoom_bias, opening) if options.zoom_bias else None
    banned = frozenset[int]()
    if not options.calls_allowed and call_id is not None:
        banned, call_bias = frozenset({call_id}), None
    return replace(options.sampling, call_bias=call_bias, banned=banned, stop=codec.end_ids)


def _choice(given: Any) -> str | None:
    """Normalise a tool choice to None, "auto", "none", "any", or a tool's name."""
    if isinstance(given, Mapping):
        function = given.get("function")
        given = function.get("name") if isinstance(function, Mapping) else given.get("name") or given.get("type")
    if given is None or given is False:
        return None
    return "any" if given is True or given == "required" else str(given)
