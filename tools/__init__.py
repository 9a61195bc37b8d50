"""`zoom_image` as a LangChain tool, for any agent."""

from vtagent.tools.zoom_image import create_zoom_tool

__all__ = ["create_zoom_tool"]
