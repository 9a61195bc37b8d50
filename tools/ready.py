"""`zoom_image`, ready to be listed among an agent's tools: for Qwen3-VL's grid, over the default image store."""

from __future__ import annotations

from vtagent.models.capabilities import store_of, vision_of
from vtagent.tools.zoom_image import create_zoom_tool

__all__ = ["zoom_image"]

zoom_image = create_zoom_tool(image_store=store_of(None), vision=vision_of(None))
