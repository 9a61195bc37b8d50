"""The zoom graph, and helpers to use it inside other graphs and to store its conversations.

`ZoomMiddleware`, for agents made with `create_agent`, is in `vtagent.graphs.middleware` and needs the extra `agents`.
"""

from vtagent.graphs.checkpoints import OffloadSerializer, aimages_in_use, images_in_use
from vtagent.graphs.intake import referenced
from vtagent.graphs.look_tool import as_tool
from vtagent.graphs.resolving import resolve
from vtagent.graphs.review import review_zooms
from vtagent.graphs.state import ZoomContext, ZoomState
from vtagent.graphs.unread_references import UnreadReferenceWarning
from vtagent.graphs.zoom import build_zoom_graph, create_zoom_agent

__all__ = [
    "OffloadSerializer",
    "UnreadReferenceWarning",
    "ZoomContext",
    "ZoomState",
    "aimages_in_use",
    "as_tool",
    "build_zoom_graph",
    "create_zoom_agent",
    "images_in_use",
    "referenced",
    "resolve",
    "review_zooms",
]
