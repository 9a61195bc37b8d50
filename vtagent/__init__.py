"""Language models that look at images cheaply first: the agent, the middleware, the chat model, images and views.

Every public name can be imported from here and is loaded when it is first used, so `import vtagent` loads none of
LangChain, LangGraph, torch and Pillow.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from vtagent import _moved

if TYPE_CHECKING:
    from vtagent.errors import VtagentError
    from vtagent.eyes import eyes_of
    from vtagent.graphs.look_tool import as_tool
    from vtagent.graphs.middleware import ZoomMiddleware
    from vtagent.graphs.review import review_zooms
    from vtagent.graphs.state import ZoomContext
    from vtagent.graphs.zoom import build_zoom_graph, create_zoom_agent
    from vtagent.images import DirectoryImageStore, ImageLimits, ImageRef, ImageStore, MemoryImageStore
    from vtagent.ingest import ingest
    from vtagent.models.chat import ChatVLM
    from vtagent.regions import Region, parse_region
    from vtagent.tools.ready import zoom_image
    from vtagent.tools.zoom_image import create_zoom_tool
    from vtagent.views import View, ViewRenderer
    from vtagent.visual_tokens import QWEN2_5_VL, QWEN3_VL, VisionSpec

    __version__: str

__all__ = [
    "QWEN2_5_VL",
    "QWEN3_VL",
    "ChatVLM",
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
    "ZoomContext",
    "ZoomMiddleware",
    "__version__",
    "as_tool",
    "build_zoom_graph",
    "create_zoom_agent",
    "create_zoom_tool",
    "eyes_of",
    "ingest",
    "parse_region",
    "review_zooms",
    "zoom_image",
]

_HOMES = {
    "QWEN2_5_VL": "visual_tokens",
    "QWEN3_VL": "visual_tokens",
    "ChatVLM": "models.chat",
    "DirectoryImageStore": "images",
    "ImageLimits": "images",
    "ImageRef": "images",
    "ImageStore": "images",
    "MemoryImageStore": "images",
    "Region": "regions",
    "View": "views",
    "ViewRenderer": "views",
    "VisionSpec": "visual_tokens",
    "VtagentError": "errors",
    "ZoomContext": "graphs.state",
    "ZoomMiddleware": "graphs.middleware",
    "as_tool": "graphs.look_tool",
    "build_zoom_graph": "graphs.zoom",
    "create_zoom_agent": "graphs.zoom",
    "create_zoom_tool": "tools.zoom_image",
    "eyes_of": "eyes",
    "ingest": "ingest",
    "parse_region": "regions",
    "review_zooms": "graphs.review",
    "zoom_image": "tools.ready",
}
"""Public name → the module below `vtagent` that defines it."""

_ROOMS = ("errors", "eyes", "graphs", "images", "models", "pixels", "regions", "tools", "views", "visual_tokens")
"""Modules that need no import of their own: `import vtagent` is enough for `vtagent.views.View`."""

if not TYPE_CHECKING:  # a type checker would take a module with `__getattr__` to have every name

    def __getattr__(name: str) -> Any:
        """Load a public name when it is first used.

        Args:
            name: The name.

        Raises:
            AttributeError: There is no such public name.
            ModuleNotFoundError: The name needs an extra that is not installed; the message says which.
        """
        if name == "__version__":
            found = _version()
        elif name in _HOMES:
            found = getattr(_home(name), name)
        elif name in _ROOMS:
            return importlib.import_module(f"{__name__}.{name}")
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})


def _home(name: str) -> ModuleType:
    """The module that defines a public name."""
    try:
        return importlib.import_module(f"{__name__}.{_HOMES[name]}")
    except ModuleNotFoundError as error:
        from vtagent.extras import missing_extra

        if (needed := missing_extra(error)) is None:
            raise
        raise ModuleNotFoundError(f"{__name__}.{name}: {needed}", name=error.name) from error


def _version() -> str:
    """The installed version; "0+unknown" in a checkout that is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("vtagent")
    except PackageNotFoundError:
        return "0+unknown"


class _Package(ModuleType):
    """A package whose public names win over submodules of the same name, whichever is imported first."""

    def __setattr__(self, name: str, value: object) -> None:
        """As in `ModuleType`, but the import system cannot put the module `ingest` in place of the function."""
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
_moved.install()
