"""What is known of a model's eyes: `Eyes`, its limits, and the source of every fact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from vtagent.eyes.rules import ClaudePatches
from vtagent.eyes.vision import Vision

__all__ = ["QWEN_ZOOM", "Boxes", "Dialect", "Eyes", "Fact", "Limits", "LowSetting", "ToolImages", "Trust"]

Trust = Literal["D", "S", "M", "?"]
"""D: the vendor's documentation. S: source code. M: measured by users. ?: third party only, or assumed."""

ToolImages = Literal["tool message", "user message"]
"""Where an image that a tool returns may stand: in the tool's message, or in a user message after all of them."""

Boxes = Literal["thousandths", "thousandths, y first", "pixels as shown"]
"""How a model writes a box: 0-1000 as x1, y1, x2, y2; 0-1000 as y1, x1, y2, x2; or pixels of the view as sent."""

Dialect = Literal["zoom_image", "image_zoom_in_tool"]
"""The zoom tool that a model is offered: ours, or the one that Qwen3-VL is trained on."""

QWEN_ZOOM: Dialect = "image_zoom_in_tool"
"""The name of the zoom tool that Qwen3-VL is trained on. A tool of this name takes that tool's arguments."""

_STANDARD_BLOCKS = ("anthropic", "bedrock", "gemini", "local")  # the packages of the others pass on `image_url` best
_TAKES_DETAIL = ("chat completions", "responses")


@dataclass(frozen=True)
class Fact:
    """One thing that is known, and why it is believed.

    Attributes:
        fact: What is known.
        source: A page, a file of a repository, or a package.
        date: When the source was written or read, as YYYY-MM or YYYY-MM-DD.
        trust: How far it goes.
    """

    fact: str
    source: str
    date: str
    trust: Trust


@dataclass(frozen=True)
class Limits:
    """What a request may hold; None where no limit is known.

    Attributes:
        max_side: Longest side of an image in pixels; a longer one is refused.
        max_pixels: Most pixels of an image.
        image_bytes: Most bytes of one image as it travels, in base64.
        request_bytes: Most bytes of a request.
        images: Most images of a request.
        many_images: With more images than this, `many_images_side` holds for each of them.
        many_images_side: Longest side in pixels then.
    """

    max_side: int | None = None
    max_pixels: int | None = None
    image_bytes: int | None = None
    request_bytes: int | None = None
    images: int | None = None
    many_images: int | None = None
    many_images_side: int | None = None

    def side(self, images: int = 1) -> int | None:
        """Longest side in pixels of each image of a request with this many; None where no limit is known."""
        if self.many_images is not None and images > self.many_images:
            return self.many_images_side
        return self.max_side


@dataclass(frozen=True)
class LowSetting:
    """A setting that makes one image cheap.

    Attributes:
        key: Its name in the content block.
        value: The cheap value.
        inside: The key of the block under which it stands; None where it stands in the block itself.
    """

    key: str
    value: str
    inside: str | None = None

    @property
    def extras(self) -> dict[str, Any]:
        """What the setting adds to a content block, to be merged into it."""
        setting = {self.key: self.value}
        return setting if self.inside is None else {self.inside: setting}


@dataclass(frozen=True)
class Eyes:
    """How a model sees: what an image costs, its limits, and how the model says where.

    Attributes:
        name: The rule that applies, such as "GPT-4o" or "Claude, high resolution".
        model: The model's name that was looked up; empty where it has none.
        wire: The API that the model is asked by.
        known: Whether the model is in the table; otherwise `vision` and `boxes` are assumed.
        vision: What an image costs and how it is shrunk.
        limits: What a request may hold.
        tool_images: Where an image that a tool returns may stand.
        boxes: How the model writes a box.
        zoom_dialect: The zoom tool that it is offered.
        low_setting: What a low view carries; None where it saves by its pixels alone.
        takes_images: What LangChain's profile of the model says of image inputs; None where it says nothing.
        sources: Every fact with its source.
    """

    name: str
    model: str
    wire: str
    known: bool
    vision: Vision
    limits: Limits = Limits()
    tool_images: ToolImages = "user message"
    boxes: Boxes = "thousandths"
    zoom_dialect: Dialect = "zoom_image"
    low_setting: LowSetting | None = None
    takes_images: bool | None = None
    sources: tuple[Fact, ...] = field(default=(), repr=False)

    def vision_for(self, images: int) -> Vision:
        """The vision for a request with this many images: more than 20 lower Claude's longest side.

        Args:
            images: How many images the request holds.
        """
        side = self.limits.side(images)
        if side is not None and isinstance(self.vision, ClaudePatches):
            return self.vision.bounded(side)
        return self.vision

    def block(
        self, base64: str, mime_type: str, *, low: bool = False, asked: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """The content block of rendered pixels, in the form whose low setting LangChain passes on to this API.

        Args:
            base64: The encoded image.
            mime_type: Such as image/jpeg.
            low: Whether the view's scale is below 1.
            asked: The caller's own `detail` or `media_resolution`. A view at full scale carries it where the API takes
                it; a low view carries the model's low setting.
        """
        asked = asked or {}
        extras = self.low_setting.extras if low and self.low_setting else {}
        if self.wire not in _STANDARD_BLOCKS:
            url = {"url": f"data:{mime_type};base64,{base64}", **extras.get("image_url", {})}
            if not low and self.wire in _TAKES_DETAIL and "detail" in asked:
                url["detail"] = asked["detail"]
            return {"type": "image_url", "image_url": url}
        if not low and self.wire == "gemini" and "media_resolution" in asked and self.low_setting:
            extras = {"media_resolution": asked["media_resolution"]}
        return {"type": "image", "base64": base64, "mime_type": mime_type, **extras}
