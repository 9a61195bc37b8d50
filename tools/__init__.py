"""LangChain tools for any agent: `zoom_image`, and pages of documents."""

from vtagent.tools.page_tools import create_page_tools
from vtagent.tools.zoom_image import create_zoom_tool

__all__ = ["create_page_tools", "create_zoom_tool"]
