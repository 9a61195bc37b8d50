"""`zoom_image`: the tool by which a model asks for more resolution, of a whole image or of a region.

The tool answers with a reference to the view, not with pixels; pixels are rendered when the model is called. The tool
reads what was shown before from the conversation's messages, so it has no memory and serves any number of runs.
"""

# No `from __future__ import annotations` here: LangChain evaluates the arguments' annotations anew in every call.

import asyncio
from collections.abc import Iterable
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.tools import BaseTool, ToolException
from pydantic import Field

from vtagent._moved import renamed_arguments
from vtagent.conversation import shown_views
from vtagent.errors import ImageError, RegionError
from vtagent.eyes import Eyes, Vision
from vtagent.eyes.facts import Boxes
from vtagent.images import ImageStore
from vtagent.tools.conversation_tool import ConversationTool
from vtagent.tools.pointing import ShownSize, ZoomArguments, arguments_for, pointed_at, region_at, said_of, where
from vtagent.views import UNSEEN, View

TOOL_NAME = "zoom_image"
"""What the tool is called, unless the model is trained on another name."""

DESCRIPTION = (
    "Look at an image again at full resolution, the whole image or only a region of it. "
    "Use it when a detail that the answer depends on is too small or too blurred to read."
)


class ZoomImage(ConversationTool):
    """The tool; make one with `create_zoom_tool`."""

    name: str = TOOL_NAME
    description: str = DESCRIPTION
    args_schema: Any = ZoomArguments
    store: Any = Field(exclude=True)
    eyes: Any = Field(exclude=True)

    # Positional-only `self`: a model may send an argument "self", and is told that there is no such argument.
    def _run(self, /, messages: Any = None, **said: Any) -> tuple[list[str | dict[str, Any]], dict[str, Any]]:
        eyes: Eyes = self.eyes
        conversation = _as_messages(messages)
        shown = [view for view, _ in shown_views(conversation, self.store)]
        later = conversation[len(_until_the_call(conversation)) :]
        before = shown[: len(shown) - len(shown_views(later, self.store))]
        vision = eyes.vision_for(sum(view.scale != UNSEEN for view in before))
        pointed = pointed_at(said, before, name=self.name, boxes=eyes.boxes)
        try:
            view = View(pointed.ref, region=region_at(pointed, vision, eyes.boxes))
            text = said_of(pointed, view, vision, name=self.name, boxes=eyes.boxes)
        except (ImageError, RegionError) as error:
            raise ToolException(str(error)) from error
        if refusal := already_shown(view, shown, vision, name=self.name, boxes=eyes.boxes):
            raise ToolException(refusal)
        return [{"type": "text", "text": text}, view.block()], {"view": view.url}

    async def _arun(self, /, **arguments: Any) -> tuple[list[str | dict[str, Any]], dict[str, Any]]:
        if self.store.in_memory:  # a thread would cost more than the work
            return self._run(**arguments)
        return await asyncio.to_thread(lambda: self._run(**arguments))


@renamed_arguments(store="image_store")
def create_zoom_tool(
    *,
    image_store: ImageStore,
    vision: Vision | None = None,
    eyes: Eyes | None = None,
    name: str = "zoom_image",
    description: str = DESCRIPTION,
    sizes: tuple[ShownSize, ...] = (),
) -> BaseTool:
    """Make the zoom tool, for LangGraph's `ToolNode`, for `create_agent`, or to be called by hand.

    Args:
        image_store: Where the conversation's images are.
        vision: What the model does to the size of an image, for a model that writes boxes in thousandths.
        eyes: What is known of the model (see `eyes_of`), in place of `vision`: its way of writing boxes, too.
        name: What the model calls it; weights trained elsewhere may know another name. "image_zoom_in_tool" is the tool
            that Qwen3-VL is trained on, and takes that tool's arguments: bbox_2d, label, img_idx.
        description: What the model is told about it.
        sizes: What the model was shown first, for models that write boxes in pixels.

    Returns:
        A tool that answers `{"region": [x1, y1, x2, y2] | null, "image": 1}` with the view's size and an image
        reference, or with `status="error"` and a text that says what would be right.

    Raises:
        TypeError: Neither or both of `vision` and `eyes` are given.

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
    if (vision is None) == (eyes is None):
        raise TypeError("give vision= or eyes=, and not both")
    if eyes is None and vision is not None:
        eyes = Eyes("given", model="", wire="unknown", known=True, vision=vision)
    assert eyes is not None
    arguments = arguments_for(name, eyes.boxes, sizes)
    return ZoomImage(name=name, description=description, args_schema=arguments, store=image_store, eyes=eyes)


def already_shown(
    view: View, shown: Iterable[View], vision: Vision, *, name: str = "zoom_image", boxes: Boxes = "thousandths"
) -> str | None:
    """The refusal of a view, in words for the model, if an earlier view shows all of it no less sharply; else None.

    Args:
        view: The view that is asked for.
        shown: The earlier views.
        vision: What the model does to the size of an image.
        name: The tool's name.
        boxes: How the model writes a box.
    """
    earlier = next((each for each in shown if each.covers(view, vision)), None)
    if earlier is None:
        return None
    return (
        f"You have already been shown this, no less sharply, in {where(earlier, name=name, boxes=boxes)}. It cannot be "
        "made sharper: answer from what you see, or ask for a part that you have not seen."
    )


def _as_messages(messages: Any) -> list[BaseMessage]:
    return [message for message in messages or () if isinstance(message, BaseMessage)]


def _until_the_call(messages: list[BaseMessage]) -> list[BaseMessage]:
    """The messages up to the last reply: what tools have answered to it was not in sight when it was made."""
    end = len(messages)
    while end and isinstance(messages[end - 1], ToolMessage):
        end -= 1
    return messages[:end] if end and isinstance(messages[end - 1], AIMessage) else messages
