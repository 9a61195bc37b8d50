"""Images, views of them, and what a view costs in visual tokens.

The agent is in `vtagent.graphs`, the chat models are in `vtagent.models`, and the tool alone is in `vtagent.tools`.
"""

from vtagent import _moved
from vtagent.errors import VtagentError
from vtagent.images import DirectoryImageStore, ImageLimits, ImageRef, ImageStore, MemoryImageStore
from vtagent.ingest import ingest
from vtagent.regions import Region, parse_region
from vtagent.views import View, ViewRenderer
from vtagent.visual_tokens import QWEN2_5_VL, QWEN3_VL, VisionSpec

__all__ = [
    "QWEN2_5_VL",
    "QWEN3_VL",
    "DirectoryImageStore",
    "ImageLimits",
    "ImageRef",
    "ImageStore",
    "MemoryImageStore",
    "Region",
    "View",
    "ViewRenderer",
    "VisionSpec",
    "VtagentError",
    "ingest",
    "parse_region",
]

_moved.install()
