"""`eyes_of`: from a model to its `Eyes`, by the tables of families and APIs."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from vtagent.eyes.facts import Eyes, Fact, LowSetting
from vtagent.eyes.known import FAMILIES, KnownFamily, family_of
from vtagent.eyes.naming import Asked, asked
from vtagent.eyes.rules import Gemini3Grid, GptTiles
from vtagent.eyes.vision import Vision
from vtagent.eyes.wires import wire_named
from vtagent.visual_tokens import QWEN3_VL, VisionSpec

__all__ = ["EyesGiven", "UnknownModelWarning", "eyes_of", "eyes_on"]

EyesGiven: TypeAlias = Eyes | Vision | Mapping[str, Any] | str | None
"""What a caller knows better: an `Eyes`, a `Vision`, fields of `Eyes`, or the name of a model that sees alike."""


class UnknownModelWarning(UserWarning):
    """A model is not in the table of models; the warning says what is assumed of it."""


_ASSUMED = (
    Fact("assumed: one token per 32 x 32 px, 64 to 16,384 of them, as Qwen3-VL", "assumed", "2026-11", "?"),
    Fact("assumed: boxes are 0-1000, x first", "assumed", "2026-11", "?"),
    Fact("what the server bills is in its `usage`; compare", "assumed", "2026-11", "?"),
)

_told: set[str] = set()
_lock = threading.Lock()


def eyes_of(model: object, *, override: EyesGiven = None, warn: bool = True) -> Eyes:
    """What is known of a model's eyes.

    Args:
        model: A LangChain chat model, a binding or wrapper of one, or a name such as "openai:gpt-4o". Of a model with
            fallbacks, the first counts.
        override: What the caller knows better: an `Eyes`, taken as it is; a `Vision`; fields of `Eyes` by name; or the
            name of a model that sees alike.
        warn: Whether an unknown model is told, once a process, with an `UnknownModelWarning`.

    Raises:
        ValueError: `override` is a name that is not in the table, or a mapping with names that are no fields of `Eyes`.

    Example:
        >>> eyes = eyes_of("openai:gpt-4o")
        >>> eyes.vision.tokens(4032, 3024), eyes.vision.tokens(512, 384, low=True), eyes.tool_images
        (765, 85, 'user message')
    """
    if isinstance(override, Eyes):
        return override
    found = asked(model)
    eyes = _overridden(found, override)
    if not eyes.known and warn:
        _warn(found)
    return eyes


def eyes_on(wire: str, model: str, *, override: EyesGiven = None) -> Eyes:
    """What is known of a model by its name and its API: what `eyes_of` says of a model object that has no `vision`.

    Args:
        wire: The API, as in `Eyes.wire`.
        model: The name, as in `Eyes.model`.
        override: As for `eyes_of`.

    Raises:
        ValueError: As for `eyes_of`.
    """
    return (
        override if isinstance(override, Eyes) else _overridden(Asked(model, repr(model), wire_named(wire)), override)
    )


def _overridden(found: Asked, override: EyesGiven) -> Eyes:
    """What is known, with what the caller knows better."""
    family = _family_by_grid(found.own_vision) if found.wire.name == "local" else family_of(found.model)
    if isinstance(override, str):
        family = family_of(override)
        if family is None:
            raise ValueError(f"override={override!r} is not the name of a known model; `vtagent models` lists them")
    eyes = _eyes(found, family)
    if isinstance(override, Mapping):
        try:
            eyes = replace(eyes, known=True, **override)
        except TypeError as error:
            raise ValueError(f"override must hold fields of Eyes: {error}") from None
    elif isinstance(override, Vision):
        same_rule = type(override) is type(eyes.vision)
        eyes = replace(eyes, vision=override, known=True, low_setting=eyes.low_setting if same_rule else None)
    return eyes


def _eyes(found: Asked, family: KnownFamily | None) -> Eyes:
    """The two tables put together; a model's own `vision` counts more than the name's."""
    wire, own = found.wire, found.own_vision
    tool_images = wire.tool_images
    # Somebody's own server may show what OpenAI's refuses; its owner says so. The package's profile is of OpenAI's.
    somebodys = wire.name == "chat completions" and found.server and found.own_profile
    if (wire.name == "unknown" or somebodys) and found.profile.get("image_tool_message"):
        tool_images = "tool message"
    takes_images = found.profile.get("image_inputs")
    common: dict[str, Any] = {
        "model": found.model,
        "wire": wire.name,
        "limits": wire.limits,
        "tool_images": tool_images,
        "takes_images": takes_images if isinstance(takes_images, bool) else None,
    }
    if family is None:
        if isinstance(own, Vision):
            carried = (Fact("the model brings its own `vision`", found.described, "2026-11", "S"), *wire.facts)
            return Eyes("its own", known=True, vision=own, sources=carried, **common)
        return Eyes("unknown", known=False, vision=QWEN3_VL, sources=(*_ASSUMED, *wire.facts), **common)
    low_setting = family.low_setting if family.low_setting in wire.settings else None
    return Eyes(
        family.name,
        known=True,
        vision=own if isinstance(own, Vision) else _vision(family, low_setting),
        boxes=family.boxes,
        zoom_dialect="zoom_image" if wire.name == "local" else family.dialect,
        low_setting=low_setting,
        sources=(*family.facts, *wire.facts),
        **common,
    )


def _family_by_grid(vision: object) -> KnownFamily | None:
    """The family of a checkpoint on this machine by its patch grid: a fine-tuned one may have any name."""
    if not isinstance(vision, VisionSpec):
        return None
    grid = vision.patch_size, vision.merge_size
    specs = ((family, family.vision) for family in FAMILIES)
    return next(
        (
            family
            for family, spec in specs
            if isinstance(spec, VisionSpec) and (spec.patch_size, spec.merge_size) == grid
        ),
        None,
    )


def _vision(family: KnownFamily, low_setting: LowSetting | None) -> Vision:
    """The family's rule, or what is left of it where the API does not take the low setting."""
    rule = family.vision
    return rule.without_setting() if low_setting is None and isinstance(rule, GptTiles | Gemini3Grid) else rule


def _warn(found: Asked) -> None:
    with _lock:
        if found.described in _told:
            return
        _told.add(found.described)
    at = f" on {found.server}" if found.server else ""
    warnings.warn(
        f"it is not known what an image costs with {found.described}{at}. Assumed, as of Qwen3-VL: a token per 32 x 32 "
        f"pixels, boxes in thousandths; images of tools in a {found.wire.tool_images}. If that is wrong, pass vision=, "
        "eyes= or override=; `vtagent models` lists the known models",
        UnknownModelWarning,
        stacklevel=3,
    )
