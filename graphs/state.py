"""What the graph carries from node to node: JSON-able values only, and the settings of a run beside them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal, NotRequired

from langchain_core.language_models import BaseChatModel
from langgraph.graph import MessagesState
from pydantic.json_schema import SkipJsonSchema
from typing_extensions import TypedDict  # pydantic, which writes schemas for servers, reads no other before 3.12

Stop = Literal["max_zooms", "max_mistakes", "max_turns", "max_visual_tokens", "max_seconds", "no_answer"]


class ViewRecord(TypedDict):
    """One view that the model has been shown."""

    url: str
    kind: Literal["low", "zoom", "tool"]
    """"low": an image of the conversation as first seen; "zoom": asked for; "tool": returned by another tool."""
    region: list[int] | None
    """(x1, y1, x2, y2), 0–1000 on the original image; None is the whole image."""
    width: int
    height: int
    """Pixels as shown."""
    tokens: int
    """Visual tokens as shown."""


class Usage(TypedDict):
    """What one run has cost."""

    visual_tokens: int
    """Sum over the views in the conversation; one that stands there twice is shown, and counts, twice."""
    full_visual_tokens: int
    """What the conversation's images would cost at full resolution, all at once; sent twice, one counts twice."""
    input_tokens: int
    output_tokens: int
    turns: int
    """Calls of the model."""
    zooms: int
    """Views granted."""
    mistakes: int
    """Calls that could not be run or were refused; they cost no zoom."""
    untagged: bool
    """Whether the answer stood outside `<answer>`."""
    seconds: float
    """Time inside the graph's nodes; waiting for a person (an interrupt) is not counted."""


class ZoomInput(MessagesState):
    """What a run is given."""


class ZoomState(MessagesState):
    """What a run leaves: all but the messages describe the last run alone."""

    answer: NotRequired[str | None]
    views: NotRequired[list[ViewRecord]]
    usage: NotRequired[Usage]
    stop: NotRequired[Stop | None]
    """Which budget forced the answer, "no_answer" if there is none, or None: the model ended by itself."""


@dataclass(frozen=True)
class ZoomContext:
    """The settings of one run (the graph's `context_schema`); a budget that is reached forces the answer."""

    model: SkipJsonSchema[BaseChatModel | None] = None
    """Used in place of the graph's own model."""
    scale: float = 0.5
    """Both sides of an image are first shown at this share of their length; 0.5 costs a quarter of the tokens."""
    max_zooms: int = 1
    """0 does not even offer the tool."""
    max_mistakes: int = 2
    """More failed calls than this force the answer."""
    max_turns: int = 12
    """Calls of the model, the forced one included: as it stands, it cuts `max_zooms` short at 11."""
    max_visual_tokens: int | None = None
    """A zoom that would exceed it is refused, with the number of tokens that are left."""
    max_seconds: float | None = None
    """Looked at between calls: a call under way is not cut off."""
    zoom_bias: float = 0.0
    """Added to the log-odds of a call at the decision."""
    zoom_token_id: int | None = None
    """The model's `<tool_call>` token, if it is no `ChatVLM`, which knows its own: this token gets a `logit_bias`."""

    def __post_init__(self) -> None:
        for names, kinds, meant in _KINDS:
            for name in names:
                if not isinstance(value := getattr(self, name), kinds):
                    raise TypeError(f"{name} must be {meant}, not {type(value).__name__}")
        if not 0 < self.scale <= 1:
            raise ValueError(f"scale must be above 0 and at most 1, not {self.scale}")
        for name in ("max_zooms", "max_mistakes", "max_visual_tokens", "max_seconds"):
            if (value := getattr(self, name)) is not None and not value >= 0:  # so put, it refuses NaN, too
                raise ValueError(f"{name} must not be negative, not {value}")
        if self.max_turns < 1:
            raise ValueError(f"max_turns must be at least 1, not {self.max_turns}")
        if not math.isfinite(self.zoom_bias):
            raise ValueError(f"zoom_bias must be finite, not {self.zoom_bias}")


_KINDS: tuple[tuple[tuple[str, ...], tuple[type, ...], str], ...] = (
    (("model",), (BaseChatModel, type(None)), "a LangChain chat model"),
    (("max_zooms", "max_mistakes", "max_turns"), (int, Integral), "a whole number"),
    (("max_visual_tokens", "zoom_token_id"), (int, type(None), Integral), "a whole number or None"),
    (("scale", "zoom_bias"), (float, Real), "a number"),
    (("max_seconds",), (type(None), float, Real), "a number or None"),
)
"""The settings, what each may be, and how to say so; plain types stand first because looking them up is quick."""


def settings_of(context: object, defaults: ZoomContext) -> ZoomContext:
    """The settings of this run. A parent graph's context of another type is not ours to read: the defaults hold."""
    return context if isinstance(context, ZoomContext) else defaults


def no_usage() -> Usage:
    """The usage of a run that has not begun."""
    return Usage(
        visual_tokens=0,
        full_visual_tokens=0,
        input_tokens=0,
        output_tokens=0,
        turns=0,
        zooms=0,
        mistakes=0,
        untagged=False,
        seconds=0.0,
    )
