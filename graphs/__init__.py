"""The zoom agent: observe at low resolution, decide, zoom when needed, answer."""

from vtagent.graphs.state import ZoomContext, ZoomState
from vtagent.graphs.zoom import build_zoom_graph, create_zoom_agent

__all__ = ["ZoomContext", "ZoomState", "build_zoom_graph", "create_zoom_agent"]
