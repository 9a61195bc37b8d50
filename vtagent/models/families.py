"""What differs between the model families: which checkpoints we serve, and whose chat template is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from vtagent.errors import ModelError
from vtagent.models.codec import IMAGE_TOKEN


@dataclass(frozen=True)
class Family:
    """One model family, named by its config's `model_type`."""

    model_type: str
    deepstack: bool
    """Whether visual features also enter the first decoder layers (Qwen3-VL)."""


FAMILIES = {
    "qwen3_vl": Family("qwen3_vl", deepstack=True),
    "qwen2_5_vl": Family("qwen2_5_vl", deepstack=False),
}

_PROBE: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "look", "arguments": {}}}],
    },
    {"role": "tool", "content": [{"type": "text", "text": "Closer."}, {"type": "image"}]},
]
"""A conversation that a template must be able to show: an image, a call, and an image in its result."""

POLICIES = Path(__file__).parents[1] / "policies"


def family_of(model_type: str) -> Family:
    """The family of a config.

    Raises:
        ModelError: we do not serve this model type.
    """
    if model_type not in FAMILIES:
        raise ModelError(
            f"model type {model_type!r} is not served; take a dense model, of {' or '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[model_type]


def resolve(path: str) -> str:
    """A bundled policy's folder for its name ("base", "zoom"), and anything else (a folder, a hub id) as it is."""
    bundled = POLICIES / path
    is_name = bundled.parent == POLICIES and bundled.name == path
    if is_name and not Path(path).exists() and (bundled / "config.json").is_file():
        return str(bundled)
    return path


def chat_template(own: str | Mapping[str, str] | None, tokenizer: Any) -> str:
    """The checkpoint's own template if it offers tools and shows the images of their results, else ours.

    Stock Qwen3-VL keeps its own; stock Qwen2.5-VL, whose template knows no tools, gets ours.
    """
    if isinstance(own, Mapping):
        own = own.get("tool_use") or own.get("default")
    return own if own is not None and _speaks_tools(own, tokenizer) else tool_template()


def _speaks_tools(template: str, tokenizer: Any) -> bool:
    from jinja2 import TemplateError

    def rendered(tools: list[dict[str, Any]] | None) -> str:
        return str(tokenizer.apply_chat_template(_PROBE, tools=tools, chat_template=template, tokenize=False))

    try:
        with_tool = rendered([{"type": "function", "function": {"name": "look", "parameters": {}}}])
        return with_tool.count(IMAGE_TOKEN) == 2 and with_tool != rendered(None)
    except (TemplateError, TypeError):
        return False


@cache
def tool_template() -> str:
    """Our ChatML template with tools: the wire format is Hermes', as Qwen models are trained on."""
    return files("vtagent.models").joinpath("tool_chat.jinja").read_text(encoding="utf-8")
