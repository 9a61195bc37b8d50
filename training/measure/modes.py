"""The modes that are compared: full resolution, a quarter of it, the policy's choice, and that choice steered.

    full           every image at full resolution at once; no tool
    quarter        only a quarter of the pixels; no tool
    zoom           a quarter of the pixels, and the policy decides whether to ask for more
    forced-zoom    like zoom, but the first reply must call the tool
    forced-direct  like zoom, with the same tool and prompt, but no reply can call the tool
    zoom bias +2   like zoom, with 2 added to the log-odds of a call at the decision

`forced-zoom` and `forced-direct` are the limits of an ever larger or smaller zoom bias, which acts at the decision
alone. A call is forced by opening it where the policy's own thought ends. It is forbidden by banning the token that
opens it. Compare them with `zoom` to see what the decision is worth. Compare `forced-direct` with `quarter` to see what
offering the tool costs.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatResult
from langchain_core.runnables import Runnable

from vtagent.graphs.zoom import ZoomContext
from vtagent.models.chat import ChatVLM
from vtagent.protocol import THINK

_BIASED = re.compile(r"zoom bias ([+-]\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Mode:
    """How images are shown, and whether the policy may ask for more."""

    scale: float = 0.5
    """Share of both sides at which an image is first shown."""
    max_zooms: int = 1
    """Views that a run may ask for. 0 offers no tool."""
    zoom_bias: float = 0.0
    """Added to the log-odds of a call at the decision."""
    call: Literal["any", "none"] | None = None
    """A tool choice that takes the decision away."""

    def adapted(self, scale: float | None, max_zooms: int | None) -> Mode:
        """The mode with other settings, if it offers the tool; else the mode itself.

        Args:
            scale: Share of both sides at which an image is first shown. None: as it is.
            max_zooms: Views that a run may ask for. None: as it is.
        """
        if not self.max_zooms:
            return self
        return replace(self, scale=scale or self.scale, max_zooms=max_zooms or self.max_zooms)

    def context(self, model: ChatVLM) -> ZoomContext:
        """The settings of a run in this mode.

        Args:
            model: The policy.
        """
        steered = None if self.call is None else _steered(model, self.call)
        return ZoomContext(steered, scale=self.scale, max_zooms=self.max_zooms, zoom_bias=self.zoom_bias)


MODES: Mapping[str, Mode] = {
    "full": Mode(scale=1.0, max_zooms=0),
    "quarter": Mode(max_zooms=0),
    "zoom": Mode(),
    "forced-zoom": Mode(call="any"),
    "forced-direct": Mode(call="none"),
}


def mode_named(name: str) -> Mode:
    """The mode with a name from `MODES` or `biased`.

    Raises:
        ValueError: There is no such mode.
    """
    if (bias := zoom_bias_of(name)) and name not in MODES:
        return Mode(zoom_bias=bias)
    if name not in MODES:
        raise ValueError(f"no mode {name!r}; known are {', '.join(MODES)} and names such as 'zoom bias +2'")
    return MODES[name]


def biased(zoom_bias: float) -> str:
    """The name of the mode with this bias; "zoom" for a bias of 0."""
    return f"zoom bias {zoom_bias:+g}" if zoom_bias else "zoom"


def zoom_bias_of(name: str) -> float | None:
    """The bias of a mode on the curve of a sweep; "zoom" has 0. None: the mode is not on that curve."""
    found = _BIASED.fullmatch(name)
    return float(found[1]) if found else 0.0 if name == "zoom" else None


def in_order(names: Collection[str]) -> list[str]:
    """Names in the order of tables: first the fixed modes, then a sweep from the lowest bias to the highest."""
    fixed = list(MODES)
    swept = sorted(set(names) - MODES.keys(), key=lambda name: zoom_bias_of(name) or 0.0)
    return [name for name in fixed if name in names] + swept


class _Steered(ChatVLM):
    """A ChatVLM with a fixed tool choice wherever the graph leaves the choice open."""

    choice: Literal["any", "none"]

    def bind_tools(
        self, tools: Sequence[Any], *, tool_choice: Any = None, **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """See `ChatVLM.bind_tools`."""
        return super().bind_tools(tools, tool_choice=tool_choice or self.choice, **kwargs)

    async def _agenerate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        if kwargs.get("tool_choice") == "any":
            thinking = {**kwargs, "tool_choice": "none"}
            thought = await super()._agenerate(messages, [THINK[1]], **thinking)
            text = thought.generations[0].message.text
            if text.startswith(THINK[0]):
                kwargs["prefill"] = text + THINK[1]
        return await super()._agenerate(messages, stop, run_manager, **kwargs)


def _steered(model: ChatVLM, choice: Literal["any", "none"]) -> _Steered:
    """The model with a fixed tool choice."""
    sampling = ("temperature", "top_p", "top_k", "repetition_penalty", "max_tokens", "seed", "stop")
    names = ("engine", "processor", "image_store", "model_name", "timeout", "images_first", *sampling)
    return _Steered(choice=choice, **{name: getattr(model, name) for name in names})
