"""What a run has seen and spent, and which budget, if any, now forces the answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Literal

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from vtagent.conversation import shown_views
from vtagent.graphs.state import Stop, Usage, ViewRecord, ZoomContext
from vtagent.images import ImageRef, ImageStore
from vtagent.views import View
from vtagent.visual_tokens import VisionSpec


def record(view: View, message: BaseMessage, *, tool_name: str, vision: VisionSpec) -> ViewRecord:
    """How a view that `message` shows is told to the caller."""
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


def in_view(
    messages: Iterable[BaseMessage], usage: Usage, store: ImageStore, *, tool_name: str, vision: VisionSpec
) -> tuple[list[ViewRecord], Usage]:
    """The distinct views in the messages, and the usage with what all of them cost, as often as they stand there."""
    shown = shown_views(messages, store)
    records = [record(view, by, tool_name=tool_name, vision=vision) for view, by in shown]
    views: dict[str, ViewRecord] = {}
    for each in records:
        views.setdefault(each["url"], each)
    tokens = sum(each["tokens"] for each in records)
    full = _full_visual_tokens([view for view, _ in shown], vision)
    return list(views.values()), {**usage, "visual_tokens": tokens, "full_visual_tokens": full}


def _full_visual_tokens(views: Iterable[View], vision: VisionSpec) -> int:
    """What the images would cost at full resolution: once, however many parts were shown, but twice if sent twice."""
    times: dict[ImageRef, int] = {}
    for view, count in Counter(views).items():
        times[view.ref] = max(count, times.get(view.ref, 0))
    return sum(count * View(ref).tokens(vision) for ref, count in times.items())


def after_call(usage: Usage, message: AIMessage, seconds: float) -> Usage:
    """The usage once the model has been called."""
    said = message.usage_metadata
    return {
        **usage,
        "turns": usage["turns"] + 1,
        "input_tokens": usage["input_tokens"] + (said["input_tokens"] if said else 0),
        "output_tokens": usage["output_tokens"] + (said["output_tokens"] if said else 0),
        "seconds": usage["seconds"] + seconds,
    }


def forced_by(usage: Usage, settings: ZoomContext, *, other_tools: bool) -> Stop | None:
    """Which budget forces the next reply to be the answer; None: the model is free.

    With other tools at hand, used-up zooms force nothing: the model may still call those.
    """
    if usage["mistakes"] > settings.max_mistakes:
        return "max_mistakes"
    if usage["turns"] + 1 >= settings.max_turns:
        return "max_turns"
    if settings.max_visual_tokens is not None and usage["visual_tokens"] >= settings.max_visual_tokens:
        return "max_visual_tokens"
    if settings.max_seconds is not None and usage["seconds"] >= settings.max_seconds:
        return "max_seconds"
    if settings.max_zooms and usage["zooms"] >= settings.max_zooms and not other_tools:
        return "max_zooms"
    return None
