"""What differs between the model families: which checkpoints we serve, and whose chat template is used."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from vtagent.errors import ModelError


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

POLICIES = Path(__file__).parents[1] / "policies"


def family_of(model_type: str) -> Family:
    """The family of a config.

    Raises:
        ModelError: we do not serve this model type.
    """
    if model_type not in FAMILIES:
        raise ModelError(
            f"model type {model_type!r} is not served; use a checkpoint of {' or '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[model_type]


def resolve(path: str) -> str:
    """A bundled policy's folder for its name ("base", "zoom"), and anything else (a folder, a hub id) as it is."""
    bundled = POLICIES / path
    is_name = bundled.parent == POLICIES and bundled.name == path
    if is_name and not Path(path).exists() and (bundled / "config.json").is_file():
        return str(bundled)
    return path


def chat_template(own: str | None) -> str:
    """The checkpoint's own template where it can offer tools and show their results, else ours (stock Qwen2.5-VL)."""
    if own is not None and "tools" in own and "tool_response" in own:
        return own
    return tool_template()


@cache
def tool_template() -> str:
    """Our ChatML template with tools: the wire format is Hermes', as Qwen models are trained on."""
    return files("vtagent.models").joinpath("tool_chat.jinja").read_text(encoding="utf-8")
