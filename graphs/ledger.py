"""What a run has seen and spent, and which budget, if any, now forces the answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from vtagent.graphs.state import Stop, Usage, ViewRecord, ZoomContext
from vtagent.tools.shown import images_of
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


def visual_tokens(views: Iterable[ViewRecord]) -> int:
    """What the views shown cost."""
    return sum(view["tokens"] for view in views)


def full_visual_tokens(views: Sequence[View], vision: VisionSpec) -> int:
    """What the images behind the views would have cost at full resolution, all at once."""
    return sum(View(ref).tokens(vision) for ref in images_of(views))


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
