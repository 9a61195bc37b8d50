"""What limits a run and what it has used: the budgets, the usage, and the `Ledger` that grants or refuses a view.

To add a budget, change this file alone: a field of `Budgets` with its check, a name in `Stop`, a line in `forced_by`.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral, Real
from types import NoneType
from typing import Any, Literal, TypeAlias

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from typing_extensions import TypedDict  # pydantic, which writes schemas for servers, reads no other before 3.12

from vtagent.conversation import shown_views
from vtagent.eyes import Eyes, Vision
from vtagent.images import ImageRef, ImageStore
from vtagent.tools.zoom_image import already_shown
from vtagent.views import View

Stop: TypeAlias = Literal[
    "max_zooms", "max_mistakes", "max_turns", "max_visual_tokens", "max_seconds", "length", "no_answer"
]
"""The budget that forced a run's answer. Without an answer: "length" if the reply was cut at its limit of tokens, else
the budget, else "no_answer"."""

# In a check of types, plain types stand first: abstract ones are slow to look up.
WHOLE: tuple[type, ...] = (int, Integral)
NUMBER: tuple[type, ...] = (float, Real)


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """The limits of a run. One that is reached forces the answer.

    Raises:
        TypeError: A field of another type; the text names it.
        ValueError: A number out of range; the text names the field.
    """

    max_zooms: int = 1
    """Views that are granted; 0 does not even offer the tool."""
    max_mistakes: int = 2
    """Failed calls that are allowed: one more forces the answer."""
    max_turns: int = 12
    """Calls of the model. Includes the forced answer: 12 turns allow 11 zooms."""
    max_calls: int = 32
    """Calls of one reply that are run; the model is told in one sentence that the rest were not."""
    max_visual_tokens: int | None = None
    """Visual tokens in the conversation. A zoom that would exceed it is refused, with the number that is left."""
    max_seconds: float | None = None
    """Seconds inside the graph's nodes. Checked between calls: a call under way is not cut off."""

    def __post_init__(self) -> None:
        check_kind(self, ("max_zooms", "max_mistakes", "max_turns", "max_calls"), WHOLE, "a whole number")
        check_kind(self, ("max_visual_tokens",), (int, NoneType, Integral), "a whole number or None")
        check_kind(self, ("max_seconds",), (NoneType, float, Real), "a number or None")
        for name in ("max_zooms", "max_mistakes", "max_visual_tokens", "max_seconds"):
            if (value := getattr(self, name)) is not None and not value >= 0:  # written this way to refuse NaN
                raise ValueError(f"{name} must not be negative, not {value}")
        for name in ("max_turns", "max_calls"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")


def check_kind(settings: object, names: Iterable[str], kinds: tuple[type, ...], meant: str) -> None:
    """Check the types of fields.

    Args:
        settings: The object that has the fields.
        names: The fields' names.
        kinds: The types that they may be of.
        meant: These types in words, for the error.

    Raises:
        TypeError: A field is of another type.
    """
    for name in names:
        if not isinstance(value := getattr(settings, name), kinds):
            raise TypeError(f"{name} must be {meant}, not {type(value).__name__}")


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


def after_call(usage: Usage, message: AIMessage, seconds: float) -> Usage:
    """The usage after a call of the model.

    Args:
        usage: The usage before it.
        message: The reply.
        seconds: How long the call took.
    """
    metered = message.usage_metadata
    return {
        **usage,
        "turns": usage["turns"] + 1,
        "input_tokens": usage["input_tokens"] + (metered["input_tokens"] if metered else 0),
        "output_tokens": usage["output_tokens"] + (metered["output_tokens"] if metered else 0),
        "seconds": usage["seconds"] + seconds,
    }


def in_view(
    messages: Iterable[BaseMessage], usage: Usage, store: ImageStore, *, tool_name: str, eyes: Eyes
) -> tuple[list[ViewRecord], Usage]:
    """The distinct views in the messages, and the usage with the visual tokens of all views there.

    Args:
        messages: The conversation, with references.
        usage: The usage before.
        store: Where the images are; lost ones are left out.
        tool_name: The zoom tool's name: views that it shows are of the kind "zoom".
        eyes: How the model sees.
    """
    shown = shown_views(messages, store)
    vision = eyes.vision_for(len(shown))
    records = [_record(view, by, tool_name=tool_name, vision=vision) for view, by in shown]
    views: dict[str, ViewRecord] = {}
    for each in records:
        views.setdefault(each["url"], each)
    tokens = sum(each["tokens"] for each in records)
    full = _full_visual_tokens([view for view, _ in shown], vision)
    return list(views.values()), {**usage, "visual_tokens": tokens, "full_visual_tokens": full}


def _record(view: View, message: BaseMessage, *, tool_name: str, vision: Vision) -> ViewRecord:
    """The record of a view that `message` shows."""
    kind: Literal["low", "zoom", "tool"] = "low"
    if isinstance(message, ToolMessage):
        kind = "zoom" if message.name == tool_name else "tool"
    width, height = view.size(vision)
    return ViewRecord(
        url=view.url,
        kind=kind,
        region=None if view.region is None else list(view.region),
        width=width,
        height=height,
        tokens=view.tokens(vision),
    )


def _full_visual_tokens(views: Iterable[View], vision: Vision) -> int:
    """The cost of the images at full resolution: once however many parts are shown, but twice if sent twice."""
    times: dict[ImageRef, int] = {}
    for view, count in Counter(views).items():
        times[view.ref] = max(count, times.get(view.ref, 0))
    return sum(count * View(ref).tokens(vision) for ref, count in times.items())


def forced_by(usage: Usage, budgets: Budgets, *, other_tools: bool) -> Stop | None:
    """The budget that forces the next reply to be the answer; None if none does.

    Args:
        usage: The run's usage.
        budgets: The run's budgets.
        other_tools: Whether the model has other tools: then used-up zooms force nothing, as it may call those.
    """
    if usage["mistakes"] > budgets.max_mistakes:
        return "max_mistakes"
    if usage["turns"] + 1 >= budgets.max_turns:
        return "max_turns"
    if budgets.max_visual_tokens is not None and usage["visual_tokens"] >= budgets.max_visual_tokens:
        return "max_visual_tokens"
    if budgets.max_seconds is not None and usage["seconds"] >= budgets.max_seconds:
        return "max_seconds"
    if budgets.max_zooms and usage["zooms"] >= budgets.max_zooms and not other_tools:
        return "max_zooms"
    return None


def spent(usage: Usage, budgets: Budgets) -> Stop | None:
    """The budget that ends the zooming of an agent, whose turns are its own affair and do not count."""
    return forced_by({**usage, "turns": 0}, budgets, other_tools=False)


class Ledger:
    """Grants or refuses the zooms of one reply, call by call, and keeps views, usage and events up to date.

    Args:
        views: The views of the run so far. Copied.
        usage: The usage so far. Copied.
        budgets: The run's budgets.
        tool_name: The zoom tool's name.
        store: Where the images are.
        eyes: How the model sees.
    """

    def __init__(
        self,
        views: Iterable[ViewRecord],
        usage: Usage,
        budgets: Budgets,
        *,
        tool_name: str,
        store: ImageStore,
        eyes: Eyes,
    ) -> None:
        self.views, self.usage = list(views), usage.copy()
        self.events: list[dict[str, Any]] = []
        self._budgets, self._tool_name, self._store, self._eyes = budgets, tool_name, store, eyes
        self._vision = eyes.vision_for(len(self.views))
        self._granted: list[View] = []

    def copy(self) -> Ledger:
        """A ledger that goes on from here; this one stays as it is."""
        same = copy.copy(self)
        same.views, same.usage = list(self.views), self.usage.copy()
        same.events, same._granted = list(self.events), list(self._granted)
        return same

    def grant(self, message: ToolMessage) -> ToolMessage:
        """The zoom tool's answer if the budgets allow its view, else a refusal.

        Args:
            message: The zoom tool's answer to a call. An error counts as a mistake.
        """
        if message.status == "error":
            return self.refuse(message.text, self._tool_name, message.tool_call_id)
        view = View.from_url(message.artifact["view"], self._store)
        if text := self._objection(view):
            return self.refuse(text, self._tool_name, message.tool_call_id)
        self._granted.append(view)
        self.views.append(_record(view, message, tool_name=self._tool_name, vision=self._vision))
        self.usage["zooms"] += 1
        self.usage["visual_tokens"] += self.views[-1]["tokens"]
        self.events.append({"event": "zoom", "view": self.views[-1], "zooms": self.usage["zooms"]})
        return message

    def refuse(self, text: str, name: str, id_: str) -> ToolMessage:
        """Answer a call that is not run with an error; it counts as a mistake and costs no zoom.

        Args:
            text: What the model is told.
            name: The name of the tool that was called.
            id_: The call's id.
        """
        self.usage["mistakes"] += 1
        self.events.append({"event": "refused", "name": name, "reason": text})
        return ToolMessage(text, name=name, tool_call_id=id_, status="error")

    def _objection(self, view: View) -> str | None:
        if self.usage["zooms"] >= self._budgets.max_zooms:
            return f"No zoom is left (the limit is {self._budgets.max_zooms}). Answer from what you see."
        if text := already_shown(view, self._granted, self._vision, name=self._tool_name, boxes=self._eyes.boxes):
            return text
        if self._budgets.max_visual_tokens is not None:
            left = self._budgets.max_visual_tokens - self.usage["visual_tokens"]
            if (cost := view.tokens(self._vision)) > left:
                return f"This view costs {cost} visual tokens and {left} are left. Ask for a smaller region, or answer."
        return None
