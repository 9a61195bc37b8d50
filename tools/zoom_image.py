"""`zoom_image`: the tool by which a model asks for more resolution, of a whole image or of a region.

The tool answers with a reference to the view, not with pixels; pixels are rendered when the model is called. The tool
reads what was shown before from the conversation's messages, so it has no memory and serves any number of runs.
"""

# No `from __future__ import annotations` here: LangChain evaluates the arguments' annotations anew in every call.

import asyncio
from collections.abc import Iterable
from typing import Annotated, Any

from langchain_core.messages import BaseMessage
from langchain_core.tools import BaseTool, ToolException
from pydantic import ConfigDict, Field, WithJsonSchema

from vtagent._moved import renamed_arguments
from vtagent.conversation import images_of, shown_views
from vtagent.errors import ImageError, RegionError
from vtagent.images import ImageRef, ImageStore
from vtagent.regions import Region, parse_region
from vtagent.tools.conversation_tool import ConversationArguments, ConversationTool
from vtagent.views import View
from vtagent.visual_tokens import VisionSpec

DESCRIPTION = (
    "Look at an image again at full resolution, the whole image or only a region of it. "
    "Use it when a detail that the answer depends on is too small or too blurred to read."
)

_BOX = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 1000}, "minItems": 4, "maxItems": 4}


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


class ZoomImage(ConversationTool):
    """The tool; make one with `create_zoom_tool`."""

    name: str = "zoom_image"
    description: str = DESCRIPTION
    args_schema: Any = ZoomArguments
    store: Any = Field(exclude=True)
    vision: VisionSpec = Field(exclude=True)

    # Positional-only `self`: a model may send an argument "self", and is told that there is no such argument.
    def _run(
        self, /, region: Any = None, image: Any = 1, messages: Any = None, **unknown: Any
    ) -> tuple[list[str | dict[str, Any]], dict[str, Any]]:
        if unknown:
            names = ", ".join(sorted(unknown))
            raise ToolException(f"{self.name} takes only region and image, not {names}.")
        shown = [view for view, _ in shown_views(_as_messages(messages), self.store)]
        ref, number = self._image(image, images_of(shown))
        view = View(ref, region=self._region(region, ref))
        try:
            width, height = view.size(self.vision)
        except ImageError as error:
            raise ToolException(str(error)) from error
        if refusal := already_shown(view, shown, self.vision):
            raise ToolException(refusal)
        text = f"Image {number} ({ref.width} × {ref.height} pixels), {_where(view)}, shown at {width} × {height}."
        return [{"type": "text", "text": text}, view.block()], {"view": view.url}

    async def _arun(self, /, **arguments: Any) -> tuple[list[str | dict[str, Any]], dict[str, Any]]:
        if self.store.in_memory:  # a thread would cost more than the work
            return self._run(**arguments)
        return await asyncio.to_thread(lambda: self._run(**arguments))

    def _image(self, image: Any, refs: list[ImageRef]) -> tuple[ImageRef, int]:
        if not refs:
            raise ToolException("There is no image in this conversation to look at. Answer without one.")
        number = int(image) if isinstance(image, float) and image.is_integer() else image
        number = 1 if number is None else number
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= len(refs):
            choice = "is 1" if len(refs) == 1 else f"is an integer from 1 to {len(refs)}"
            raise ToolException(f"There is no image {_short(image)}: image {choice}.")
        return refs[number - 1], number

    def _region(self, region: Any, ref: ImageRef) -> Region | None:
        try:
            parsed = parse_region(region, width=ref.width, height=ref.height)
        except RegionError as error:
            raise ToolException(str(error)) from error
        return None if parsed is None else parsed.fitted(ref.width, ref.height, self.vision)


@renamed_arguments(store="image_store")
def create_zoom_tool(
    *, image_store: ImageStore, vision: VisionSpec, name: str = "zoom_image", description: str = DESCRIPTION
) -> BaseTool:
    """Make the zoom tool, for LangGraph's `ToolNode`, for `create_agent`, or to be called by hand.

    Args:
        image_store: Where the conversation's images are.
        vision: The model family's patch grid and limits; they decide a view's size.
        name: What the model calls it; weights trained elsewhere may know another name.
        description: What the model is told about it.

    Returns:
        A tool that answers `{"region": [x1, y1, x2, y2] | null, "image": 1}` with the view's size and an image
        reference, or with `status="error"` and a text that says what would be right.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> from langchain_core.messages import HumanMessage
        >>> from vtagent.images import MemoryImageStore
        >>> from vtagent.views import View
        >>> from vtagent.visual_tokens import QWEN3_VL
        >>> store, png = MemoryImageStore(), io.BytesIO()
        >>> Image.new("RGB", (1280, 960), "white").save(png, "png")
        >>> seen = HumanMessage([View(store.put(png.getvalue()), scale=0.5).block()])
        >>> zoom = create_zoom_tool(image_store=store, vision=QWEN3_VL)
        >>> zoom.invoke({"region": [0, 0, 500, 500], "messages": [seen]})[0]["text"]
        'Image 1 (1280 × 960 pixels), region [0, 0, 500, 500], shown at 640 × 480.'
    """
    return ZoomImage(name=name, description=description, store=image_store, vision=vision)


def already_shown(view: View, shown: Iterable[View], vision: VisionSpec) -> str | None:
    """The refusal of a view, in words for the model, if an earlier view shows all of it no less sharply; else None.

    Args:
        view: The view that is asked for.
        shown: The earlier views.
        vision: The model family's patch grid and limits.
    """
    earlier = next((each for each in shown if each.covers(view, vision)), None)
    if earlier is None:
        return None
    return (
        f"You have already been shown this, no less sharply, in {_where(earlier)}. It cannot be made sharper: "
        "answer from what you see, or ask for a part that you have not seen."
    )


def _where(view: View) -> str:
    return "the whole image" if view.region is None else f"region {list(view.region)}"


def _as_messages(messages: Any) -> list[BaseMessage]:
    return [message for message in messages or () if isinstance(message, BaseMessage)]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:39] + "…"
