"""Every fact that differs between the model families. Adding a family means adding one entry to `FAMILIES`.

The families share a tokenizer with ChatML tokens and tool calls in Hermes' format. This module needs no extra.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtagent import eyes
from vtagent._moved import renamed
from vtagent.errors import ModelError
from vtagent.models.codec import IMAGE_TOKEN
from vtagent.protocol import TOOL_CALL, ToolCall, parse_reply
from vtagent.visual_tokens import VisionSpec


@dataclass(frozen=True)
class Family:
    """One model family."""

    model_type: str
    """The `model_type` of its configs."""
    eyes: str
    """The family's name in `vtagent.eyes`, which knows the names of its checkpoints and its image sizes."""
    deepstack: bool
    """Whether visual features also enter the first decoder layers (Qwen3-VL, arXiv:2511.21631)."""
    window_attention: bool
    """Whether most vision layers attend inside windows only (Qwen2.5-VL, arXiv:2502.13923, section 2.1)."""
    learned_positions: bool
    """Whether the vision tower adds learned position embeddings to the patches."""
    head_norm: bool
    """Whether the decoder normalises the queries and keys of each head."""
    template: str = "tool_chat.jinja"
    """File in `vtagent.models` with the chat template for checkpoints whose own does not show tools."""

    @property
    def vision(self) -> VisionSpec:
        """Image sizes of a checkpoint whose own are not known."""
        vision = next(family.vision for family in eyes.FAMILIES if family.name == self.eyes)
        assert isinstance(vision, VisionSpec)
        return vision


FAMILIES = {
    family.model_type: family
    for family in (
        Family(
            model_type="qwen2_5_vl",
            eyes="Qwen2.5-VL",
            deepstack=False,
            window_attention=True,
            learned_positions=False,
            head_norm=False,
        ),
        Family(
            model_type="qwen3_vl",
            eyes="Qwen3-VL",
            deepstack=True,
            window_attention=False,
            learned_positions=True,
            head_norm=True,
        ),
    )
}
"""The families that are served, by model type."""

_LINEAR = "most of its layers are linear attention, whose state cannot be kept token by token (ask it on a server)"
_REFUSED = {"qwen3_5": _LINEAR, "qwen3_5_moe": _LINEAR, "qwen3_next": _LINEAR}
"""Model types that look like those of a family, with the reason why they are not served."""

DEFAULT_FAMILY = FAMILIES["qwen3_vl"]
"""Assumed where a name does not tell the family."""

POLICIES = Path(__file__).parents[1] / "policies"
"""Folder of the bundled policies."""

_PROBE: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "look", "arguments": {}}}],
    },
    {"role": "tool", "content": [{"type": "text", "text": "Closer."}, {"type": "image"}]},
]
"""A conversation that a template must be able to show: an image, a tool call, and an image in its result."""


def family_of(model_type: str) -> Family:
    """The family of a config's `model_type`.

    Raises:
        ModelError: The model type is not served.
    """
    if model_type not in FAMILIES:
        why = f": {_REFUSED[model_type]}" if model_type in _REFUSED else ""
        raise ModelError(
            f"model type {model_type!r} is not served{why}; take a dense model, of {' or '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[model_type]


def family_by_name(name: str) -> Family:
    """The family that a name suggests; `DEFAULT_FAMILY` if it suggests none.

    Args:
        name: Of a checkpoint or of a server's model, a path or a hub id: "Qwen/Qwen2.5-VL-7B-Instruct", "qwen2.5vl:7b".
    """
    seen = eyes.family_of(name)
    matching = (family for family in FAMILIES.values() if seen is not None and family.eyes == seen.name)
    return next(matching, DEFAULT_FAMILY)


def checkpoint_path(name: str) -> str:
    """The folder of a bundled policy ("base", "zoom"); any other name (a folder, a hub id) unchanged."""
    bundled = POLICIES / name
    is_name = bundled.parent == POLICIES and bundled.name == name
    if is_name and not Path(name).exists() and (bundled / "config.json").is_file():
        return str(bundled)
    return name


def chat_template(own: str | Mapping[str, str] | None, tokenizer: Any, family: Family = DEFAULT_FAMILY) -> str:
    """The checkpoint's own template if it shows tools and the images of their results, else the family's.

    Stock Qwen3-VL keeps its own. Stock Qwen2.5-VL gets the family's, because its own does not show tools. So does a
    template that wants calls in another form than JSON (Qwen3.5), which the reply protocol does not read.

    Args:
        own: The checkpoint's template, or several by name.
        tokenizer: The checkpoint's tokenizer.
        family: The checkpoint's family.
    """
    if isinstance(own, Mapping):
        own = own.get("tool_use") or own.get("default")
    return own if own is not None and _shows_tools(own, tokenizer) else tool_template(family)


def _shows_tools(template: str, tokenizer: Any) -> bool:
    from jinja2 import TemplateError

    def rendered(tools: list[dict[str, Any]] | None) -> str:
        return str(tokenizer.apply_chat_template(_PROBE, tools=tools, chat_template=template, tokenize=False))

    try:
        without_tool = rendered(None)
        with_tool = rendered([{"type": "function", "function": {"name": "look", "parameters": {}}}])
    except (TemplateError, TypeError):
        return False
    calls = without_tool.rpartition(IMAGE_TOKEN)[0]
    writes_json = TOOL_CALL[0] not in calls or ToolCall("look", {}) in parse_reply(calls).tool_calls
    return with_tool.count(IMAGE_TOKEN) == 2 and with_tool != without_tool and writes_json


@cache
def tool_template(family: Family = DEFAULT_FAMILY) -> str:
    """The family's chat template with tools: ChatML, with tool calls in Hermes' format, as Qwen models are trained."""
    return files("vtagent.models").joinpath(family.template).read_text(encoding="utf-8")


if not TYPE_CHECKING:  # type checkers must not accept every name

    def __getattr__(name: str) -> object:
        return renamed(__name__, name)
