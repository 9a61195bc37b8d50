"""How a model points at a part of an image: the arguments that it is offered, and where what it says lands.

Two things differ between models. The *dialect* is the tool's name and arguments: ours, or those of the tool that
Qwen3-VL is trained on. The *convention* is how a box is written: thousandths, thousandths with y first, or pixels of
the view as shown. The arguments' descriptions say both, and nothing else is read.
"""

# No `from __future__ import annotations` here: LangChain evaluates the arguments' annotations anew in every call.

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any

from langchain_core.tools import ToolException
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, create_model

from vtagent.conversation import images_of
from vtagent.eyes import QWEN_ZOOM, Vision
from vtagent.eyes.facts import Boxes
from vtagent.images import ImageRef
from vtagent.regions import Region, parse_region
from vtagent.tools.conversation_tool import ConversationArguments
from vtagent.views import UNSEEN, View

ShownSize = tuple[int, int, int]
"""An image's number, counted from 1, and its width and height in pixels as it was shown first."""

_BOX = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 1000}, "minItems": 4, "maxItems": 4}
_PIXEL_BOX = {**_BOX, "items": {"type": "integer", "minimum": 0}}
_INDEX = {"type": "integer", "minimum": 0}


class ZoomArguments(ConversationArguments):
    """What the model may say. The tool itself checks the types, with errors that the model can act on."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"additionalProperties": False})

    region: Annotated[Any, WithJsonSchema(_BOX)] = Field(
        default=None,
        description="The part to look at, [x1, y1, x2, y2]: left, top, right, bottom, from 0 to 1000 of the image's "
        "width and height. Leave it out for the whole image.",
    )
    image: Annotated[Any, WithJsonSchema({"type": "integer", "minimum": 1})] = Field(
        default=1, description="Which image of the conversation, counted from 1."
    )


class ImageZoomInArguments(ConversationArguments):
    """The arguments of Qwen3-VL's own tool. Every image that was shown has an index, the results of zooms, too."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"additionalProperties": False})

    bbox_2d: Annotated[Any, WithJsonSchema(_BOX)] = Field(
        default=None,
        description="The bounding box of the region to zoom in, [x1, y1, x2, y2]: left, top, right, bottom, from 0 to "
        "1000 of the width and height of the image with index img_idx. Leave it out for the whole image.",
    )
    label: Annotated[Any, WithJsonSchema({"type": "string"})] = Field(
        default=None, description="The name of what is in the bounding box."
    )
    img_idx: Annotated[Any, WithJsonSchema(_INDEX)] = Field(
        default=0,
        description="The index of the image to zoom in, among all images of the conversation, results of zooms "
        "included, counted from 0.",
    )


@lru_cache(maxsize=256)
def arguments_for(name: str, boxes: Boxes, sizes: tuple[ShownSize, ...] = ()) -> type[BaseModel]:
    """The arguments that a zoom tool offers.

    Args:
        name: The tool's name, which decides the dialect.
        boxes: How the model writes a box.
        sizes: What the model was shown first. Said where boxes are pixels.
    """
    qwen = name == QWEN_ZOOM
    base: type[BaseModel] = ImageZoomInArguments if qwen else ZoomArguments
    if boxes == "thousandths":
        return base
    which = " of the image with index img_idx" if qwen else ""
    if boxes == "thousandths, y first":
        schema = _BOX
        of = which or " of the image"
        how = f"[y1, x1, y2, x2]: top, left, bottom, right, from 0 to 1000 of the height and width{of}."
    else:
        schema = _PIXEL_BOX
        shown = "".join(f" Image {number} was first shown at {width} × {height}." for number, width, height in sizes)
        how = (
            f"[x1, y1, x2, y2]: left, top, right, bottom, in pixels{which or ' of the image'} as you were shown it"
            f"{'' if qwen else ' last'}.{shown} The answer to a zoom says the size of what it shows."
        )
    field = Field(default=None, description=f"The part to look at, {how} Leave it out for the whole image.")
    argument: Any = (Annotated[Any, WithJsonSchema(schema)], field)
    return create_model(base.__name__, __base__=base, **{"bbox_2d" if qwen else "region": argument})


@dataclass(frozen=True)
class Pointed:
    """The image that a call means, and the view that its box is written on."""

    ref: ImageRef
    number: int
    """As the model counts it."""
    box: Any
    """The box as written; None for the whole image."""
    argument: str
    """The name of the argument that holds the box."""
    on: View
    """The view that pixels of the box are those of."""
    part: tuple[int, int, int, int] | None
    """The part of the original that the box is relative to, in pixels; None is all of it."""

    def checked(self) -> "Pointed":
        """This, if the box can be placed.

        Raises:
            ToolException: The box is written on a view that is out of sight.
        """
        if self.part is not None and self.box not in (None, "", [], {}) and self.on.scale == UNSEEN:
            raise ToolException(
                f"Image {self.number} is no longer shown, so {self.argument} cannot be placed on it. Leave "
                f"{self.argument} out to see the whole image again."
            )
        return self


def pointed_at(said: dict[str, Any], shown: Sequence[View], *, name: str, boxes: Boxes) -> Pointed:
    """What a call means.

    Args:
        said: The arguments of the call.
        shown: What the model had been shown when it made the call, in order.
        name: The tool's name, which decides the dialect.
        boxes: How the model writes a box.

    Raises:
        ToolException: There is no such image or argument, or the box is written on what is no longer shown.
    """
    qwen = name == QWEN_ZOOM
    names = ("bbox_2d", "label", "img_idx") if qwen else ("region", "image")
    if unknown := sorted(set(said) - set(names)):
        only = f"{', '.join(names[:-1])} and {names[-1]}"
        raise ToolException(f"{name} takes only {only}, not {', '.join(unknown)}.")
    if not shown:
        raise ToolException("There is no image in this conversation to look at. Answer without one.")
    if qwen:
        index = _number(said.get("img_idx"), "img_idx", 0, len(shown) - 1)
        view = shown[index]
        return Pointed(view.ref, index, said.get("bbox_2d"), "bbox_2d", view, view.box).checked()
    refs = images_of(shown)
    number = _number(said.get("image"), "image", 1, len(refs))
    ref = refs[number - 1]
    views = [view for view in shown if view.ref.id == ref.id]
    last = next((view for view in reversed(views) if view.scale != UNSEEN), views[-1])
    part = last.box if boxes == "pixels as shown" else None
    return Pointed(ref, number, said.get("region"), "region", last, part).checked()


def where(view: View, *, name: str, boxes: Boxes) -> str:
    """The part that a view shows, in words that a model of this convention reads right."""
    if view.region is None:
        return "the whole image"
    if name == QWEN_ZOOM or boxes == "pixels as shown":  # its boxes are on views; it never sees these numbers
        left, top, right, bottom = (round(value / 10) for value in view.region)
        return f"the part from {left} % to {right} % of the width and from {top} % to {bottom} % of the height"
    x1, y1, x2, y2 = view.region
    return f"region {[y1, x1, y2, x2] if boxes == 'thousandths, y first' else [x1, y1, x2, y2]}"


def said_of(pointed: Pointed, view: View, vision: Vision, *, name: str, boxes: Boxes) -> str:
    """What the model is told beside a view.

    Args:
        pointed: What its call meant.
        view: What it is shown.
        vision: How it sees.
        name: As for `pointed_at`.
        boxes: As for `pointed_at`.
    """
    width, height = view.size(vision)
    shown = f"{where(view, name=name, boxes=boxes)}, shown at {width} × {height}."
    if name == QWEN_ZOOM:
        return f"From image {pointed.number}: {shown}"
    if boxes == "pixels as shown":
        pixels = f" Boxes on image {pointed.number} are now pixels of this view."
        return f"Image {pointed.number}, {shown}{pixels}"
    return f"Image {pointed.number} ({view.ref.width} × {view.ref.height} pixels), {shown}"


def region_at(pointed: Pointed, vision: Vision, boxes: Boxes) -> Region | None:
    """The region of the original that a call means, grown to what the model can look at.

    Raises:
        RegionError: The box cannot be in the model's convention.
    """
    ref = pointed.ref
    parsed = parse_region(
        pointed.box,
        width=ref.width,
        height=ref.height,
        boxes=boxes,
        shown=pointed.on.size(vision) if boxes == "pixels as shown" and pointed.part else None,
        part=pointed.part,
        name=pointed.argument,
    )
    return None if parsed is None else parsed.fitted(ref.width, ref.height, vision)


def _number(value: Any, name: str, first: int, last: int) -> int:
    """An image's number, given as an integer, as a float without a fraction or as digits."""
    number = value.strip() if isinstance(value, str) else value
    digits = isinstance(number, str) and number.isascii() and number.isdecimal() and len(number) < 10
    if digits or (isinstance(number, float) and number.is_integer()):
        number = int(number)
    number = first if number is None else number
    if isinstance(number, bool) or not isinstance(number, int) or not first <= number <= last:
        choice = f"is {first}" if first == last else f"is an integer from {first} to {last}"
        raise ToolException(f"There is no image {_short(value)}: {name} {choice}.")
    return number


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:39] + "…"
