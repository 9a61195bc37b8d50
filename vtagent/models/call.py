"""One call of a chat model: from messages and options to the engine's request, and from its generation to a message."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from secrets import token_hex
from typing import Any, ClassVar

from langchain_core.messages import AIMessage, BaseMessage

from vtagent.errors import ModelError
from vtagent.images import ImageStore
from vtagent.models.codec import Codec, TextStream
from vtagent.models.engine import EngineImage, Generation, Request, Sampling
from vtagent.models.records import KEY, known_prefix, make_record, prefix_hashes
from vtagent.models.streaming import Shown, cut, to_message, usage
from vtagent.models.template import to_template, views_of, with_references
from vtagent.protocol import TOOL_CALL
from vtagent.views import View, ViewRenderer

_MARK = f"reply-{token_hex(16)}"
"""Stands for the last recorded reply while what follows it is rendered; random, so that no message can contain it."""


@dataclass(frozen=True)
class Options:
    """The options of one call, defaults of the model included."""

    defaults: ClassVar[tuple[str, ...]] = ("temperature", "top_p", "top_k", "max_tokens", "seed")
    _others: ClassVar[frozenset[str]] = frozenset({"tools", "tool_choice", "zoom_bias", "logit_bias", "prefill"})

    sampling: Sampling
    stops: tuple[str, ...]
    tools: tuple[Mapping[str, Any], ...]
    forced: str | None
    """What the reply must begin with: the caller's `prefill`, and the call where a tool choice leaves no choice."""
    calls_allowed: bool
    zoom_bias: float

    @classmethod
    def of(cls, given: Mapping[str, Any], stops: Sequence[str]) -> Options:
        """Read options as LangChain passes them; those that mean nothing to us (a trace's labels, …) are left alone.

        Raises:
            ModelError: a tool choice that cannot be met.
        """
        tools = tuple(given.get("tools") or ())
        choice = _choice(given.get("tool_choice"))
        names = [tool["function"]["name"] for tool in tools]
        forced: str | None = given.get("prefill")
        if choice not in (None, "auto", "none"):
            if not tools or (choice != "any" and choice not in names):
                raise ModelError(f"tool_choice {choice!r} needs that tool; offered are: {', '.join(names) or 'none'}")
            forced = (forced or "") + TOOL_CALL[0]
            if choice != "any" and len(tools) > 1:
                forced += f'\n{{"name": {json.dumps(choice)}, "arguments": '
        return cls(
            sampling=Sampling(
                temperature=given["temperature"],
                top_p=given["top_p"],
                top_k=given["top_k"],
                max_tokens=given["max_tokens"],
                seed=given["seed"],
                logit_bias=dict(given.get("logit_bias") or {}),
            ),
            stops=tuple(stop for stop in stops if stop),
            tools=tools,
            forced=forced,
            calls_allowed=choice != "none" and (bool(tools) or choice == "auto"),
            zoom_bias=float(given.get("zoom_bias") or 0.0),
        )


@dataclass(frozen=True)
class Call:
    """What is asked of the engine, and all that is needed to make a message of its reply."""

    request: Request
    codec: Codec
    stops: tuple[str, ...]
    forced: str
    new_ids: tuple[int, ...]
    """The ids of the prompt after the recorded turns."""
    prefix: str

    def reader(self) -> TextStream:
        """A reader of the reply's tokens that knows how the reply was made to begin."""
        stream = self.codec.stream()
        stream.text = self.forced
        return stream

    def shown(self) -> Shown:
        """To show the reply's text as its tokens come."""
        return Shown(self.reader(), self.stops)

    def request_with(self, show: Callable[[int], None] | None) -> Request:
        """The request, calling `show` with each token and ending at the stop texts."""
        if not self.stops:
            return replace(self.request, on_token=show)
        reader = self.reader()

        def watch(token: int) -> bool:
            if show is not None:
                show(token)
            text = reader.push(token)
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


def plan(
    messages: Sequence[BaseMessage], options: Options, *, codec: Codec, store: ImageStore, renderer: ViewRenderer
) -> Call:
    """Lay out a call: everything said before by its recorded ids, then the template's text for what is new.

    Raises:
        ModelError: no messages, or a conversation that the model cannot be shown.
        ImageError: an image that is unknown to the store, or that it refuses.
    """
    if not messages:
        raise ModelError("the prompt is empty; send at least one message")
    messages = with_references(messages, store)
    hashes = prefix_hashes(messages, f"{codec.fingerprint}{json.dumps(options.tools, sort_keys=True, default=str)}")
    known, covered = known_prefix(messages, hashes)
    new_ids = codec.encode(_new_text(messages, covered, known, options, codec) + (options.forced or ""))
    views = views_of(messages, store)
    ids = (*known, *new_ids)
    if ids.count(codec.image_token_id) != len(views):
        raise ModelError(
            f"the chat template shows {ids.count(codec.image_token_id)} of the conversation's {len(views)} images; "
            "it must write one <|image_pad|> for each"
        )
    request = Request(
        token_ids=ids,
        images=_rendered(views, renderer),
        sampling=_sampling(options, codec),
    )
    return Call(request, codec, options.stops, options.forced or "", tuple(new_ids), hashes[-1])


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
    """The template's text past the recorded ids: all of it, or what follows the last recorded reply."""
    rendered = to_template(messages, codec)
    if not covered:
        return codec.render(rendered, options.tools)
    rendered[covered - 1] = {"role": "assistant", "content": _MARK}
    _, mark, rest = codec.render(rendered, options.tools).rpartition(_MARK)
    if not mark:
        raise ModelError("the chat template drops a reply of the conversation, so what follows it cannot be rendered")
    if known[-1] in codec.end_ids:  # the model has said this token itself
        rest = rest.removeprefix(codec.token(known[-1]))
    return rest


def _sampling(options: Options, codec: Codec) -> Sampling:
    call_id = codec.tool_call_id
    bias, banned = dict(options.sampling.logit_bias), frozenset[int]()
    if options.zoom_bias:
        if call_id is None:
            raise ModelError(f"zoom_bias needs a tokenizer with {TOOL_CALL[0]} as one token")
        bias[call_id] = bias.get(call_id, 0.0) + options.zoom_bias
    if not options.calls_allowed and call_id is not None:
        banned = frozenset({call_id})
    return replace(options.sampling, logit_bias=bias, banned=banned, stop=codec.end_ids)


def _choice(given: Any) -> str | None:
    """A tool choice as one word: None, "auto", "none", "any", or a tool's name."""
    if isinstance(given, Mapping):
        function = given.get("function")
        given = function.get("name") if isinstance(function, Mapping) else given.get("name") or given.get("type")
    if given is None or given is False:
        return None
    return "any" if given is True or given == "required" else str(given)
