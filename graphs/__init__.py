"""The zoom agent: observe at low resolution, decide, zoom when needed, answer; and what composes and keeps it.

`ZoomMiddleware`, for agents made with `create_agent`, is in `vtagent.graphs.middleware`: it needs the extra `agents`.
"""

from vtagent.graphs.checkpoints import OffloadSerializer
from vtagent.graphs.in_use import aimages_in_use, images_in_use
from vtagent.graphs.look_tool import as_tool
from vtagent.graphs.review import review_zooms
from vtagent.graphs.state import ZoomContext, ZoomState
from vtagent.graphs.zoom import build_zoom_graph, create_zoom_agent

__all__ = [
    "OffloadSerializer",
    "ZoomContext",
    "ZoomState",
    "aimages_in_use",
    "as_tool",
    "build_zoom_graph",
    "create_zoom_agent",
    "images_in_use",
    "review_zooms",
]
