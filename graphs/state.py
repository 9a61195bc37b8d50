"""What the graph carries from node to node, JSON-able values only, and the settings of a run."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import KW_ONLY, dataclass
from numbers import Integral
from types import NoneType
from typing import Any, NotRequired

from langchain_core.runnables import Runnable
from langgraph.graph import MessagesState
from pydantic import InstanceOf
from pydantic.json_schema import SkipJsonSchema

from vtagent.graphs.budgets import NUMBER, Budgets, Stop, Usage, ViewRecord, check_kind
from vtagent.models.runnables import AnyModel

__all__ = ["NodeResult", "Stop", "Usage", "ViewRecord", "ZoomContext", "ZoomInput", "ZoomState", "settings_of"]


class ZoomInput(MessagesState):
    """What a run is given."""


class ZoomState(MessagesState):
    """What a run leaves: all but the messages describe the last run alone."""

    answer: NotRequired[str | None]
    views: NotRequired[list[ViewRecord]]
    usage: NotRequired[Usage]
    stop: NotRequired[Stop | None]
    """Which budget forced the answer, "length" or "no_answer" if there is none, or None: the model ended by itself."""


class NodeResult(dict[str, Any]):
    """What a run returns inside another graph: a dict of what that graph is to receive.

    A node writes all keys of the dict that it returns. So only shared keys are in it, and a parent's own `answer` or
    `usage` survives. A function that calls the agent finds the others by their names: `result["answer"]`.

    Args:
        result: All of the run's result.
        shares: The keys that the parent graph receives.
    """

    def __init__(self, result: Mapping[str, Any], shares: Collection[str]) -> None:
        super().__init__({key: value for key, value in result.items() if key in shares})
        self._result = result

    def __missing__(self, key: str) -> Any:
        return self._result[key]

    def get(self, key: str, default: Any = None) -> Any:
        """As `dict.get`, for the keys that are not shared, too."""
        return self._result.get(key, default)


@dataclass(frozen=True)
class ZoomContext(Budgets):
    """The settings of one run (the graph's `context_schema`); a budget that is reached forces the answer."""

    model: SkipJsonSchema[InstanceOf[AnyModel] | str | None] = None
    """Used in place of the graph's own model: a chat model, a runnable around chat models, or a name such as
    "openai:gpt-4o"."""
    _: KW_ONLY
    scale: float = 0.5
    """Both sides of an image are first shown at this share of their length; 0.5 costs a quarter of the tokens."""
    zoom_bias: float = 0.0
    """Added to the log-odds of a call at the decision."""
    zoom_token_id: int | None = None
    """The id of the model's `<tool_call>` token, which gets a `logit_bias` at every token. `ChatVLM` knows its own."""
    keep_images: int | None = None
    """How many images the model is still shown, the newest of the conversation; None: as many as its provider takes."""

    def __post_init__(self) -> None:
        check_kind(self, ("model",), (NoneType, str, Runnable), "a LangChain chat model or its name")
        check_kind(self, ("scale", "zoom_bias"), NUMBER, "a number")
        check_kind(self, ("zoom_token_id", "keep_images"), (int, NoneType, Integral), "a whole number or None")
        super().__post_init__()
        if not 0 < self.scale <= 1:
            raise ValueError(f"scale must be above 0 and at most 1, not {self.scale}")
        if not math.isfinite(self.zoom_bias):
            raise ValueError(f"zoom_bias must be finite, not {self.zoom_bias}")
        if self.keep_images is not None and self.keep_images < 1:
            raise ValueError(f"keep_images must be at least 1, not {self.keep_images}")


def settings_of(context: object, defaults: ZoomContext) -> ZoomContext:
    """The settings of a run: its context, or `defaults` if a parent graph's context is of another type."""
    return context if isinstance(context, ZoomContext) else defaults
