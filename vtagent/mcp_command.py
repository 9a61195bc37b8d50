"""The command `vtagent mcp`: the MCP server over some folders, and the model that answers its tool `ask`."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from vtagent.errors import ModelError
from vtagent.eyes import Vision
from vtagent.eyes.assistants import eyes_for
from vtagent.hub import check_available
from vtagent.images import ImageStore
from vtagent.mcp.folders import Folders
from vtagent.mcp.server import ImageServer, serve_http, serve_stdio
from vtagent.mcp.viewing import Shown, Viewer
from vtagent.options import zoom_token_id
from vtagent.user_input import check_question
from vtagent.views import View

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

    Load = Callable[[ImageStore], tuple[str, BaseChatModel, Vision]]

BUNDLED = ("base", "zoom")
_READS_SAMPLES = "It reads only documents that `vtagent samples` draws, and no others."

MOST_SECONDS = 300.0
"""Longest run of a question; then the model must answer."""


def serve(options: argparse.Namespace, load: Load) -> None:
    """Serves MCP until the client leaves (stdio) or the process is interrupted (HTTP).

    Args:
        options: The parsed options; see `vtagent.options`.
        load: Loads the model that the options name: the store → (its name, the model, its image sizes).

    Raises:
        DataError: A folder or the client's model is not known, or the port is taken.
    """
    if options.base_url is None and options.model is not None:
        check_available(options.model)  # a wrong name is told now, not in the first question
    server = server_of(options, load)
    if options.http is None:
        serve_stdio(server)
    else:
        serve_http(server)


def server_of(options: argparse.Namespace, load: Load) -> ImageServer:
    """Returns the server that the options describe. No model is loaded before the first question.

    Args:
        options: As for `serve`.
        load: As for `serve`.

    Raises:
        DataError: A folder or the client's model is not known.
    """
    viewer = Viewer(Folders(options.root), eyes_for(options.client))
    asks = options.model is not None or options.base_url is not None
    return ImageServer(
        viewer,
        ask=Asker(viewer, options, load) if asks else None,
        about=_READS_SAMPLES if options.model in BUNDLED and options.base_url is None else "",
        port=options.http or 0,
    )


class Asker:
    """Answers questions about images with a model of ours, which is loaded with the first question.

    Args:
        viewer: Knows the images.
        options: The parsed options; see `vtagent.options`.
        load: As for `serve`.
    """

    def __init__(self, viewer: Viewer, options: argparse.Namespace, load: Load) -> None:
        self._viewer, self._options, self._load = viewer, options, load
        self._loading = threading.Lock()
        self._agent: Any = None
        self._context: Any = None

    def __call__(self, images: Sequence[str], question: str) -> Shown:
        """Returns the answer, where it was read, and what it cost.

        Args:
            images: Their names.
            question: The question.

        Raises:
            ImageError: An image cannot be used.
            DataError: The question is empty or no text.
            ModelError: The model failed or gave no answer.
        """
        from langchain_core.messages import HumanMessage

        check_question(question)
        store = self._viewer.store
        refs = [self._viewer.folders.put(name, store) for name in images]
        blocks: list[Any] = [View(ref).block() for ref in refs]
        self._prepare()
        message = HumanMessage([*blocks, {"type": "text", "text": question}])
        state = self._agent.invoke({"messages": [message]}, context=self._context)
        if not state["answer"]:
            raise ModelError("the model gave no answer")
        used, full = state["usage"]["visual_tokens"], state["usage"]["full_visual_tokens"]
        names = {ref.url: name for ref, name in zip(refs, images, strict=True)}
        lines = [state["answer"], "", *(self._look(view, names) for view in state["views"])]
        lines.append(f"{used:,} visual tokens; at full resolution at once: {full:,}.")
        facts = {"answer": state["answer"], "views": state["views"], "usage": state["usage"], "stop": state["stop"]}
        return Shown("\n".join(lines), facts=facts)

    def _prepare(self) -> None:
        with self._loading:
            if self._agent is not None:
                return
            from vtagent.graphs.zoom import ZoomContext, create_zoom_agent

            options, store = self._options, self._viewer.store
            name, model, vision = self._load(store)
            self._context = ZoomContext(
                max_zooms=options.max_zooms,
                max_seconds=MOST_SECONDS,
                zoom_bias=options.zoom_bias,
                zoom_token_id=zoom_token_id(options, name),
            )
            self._agent = create_zoom_agent(model, image_store=store, vision=vision)

    def _look(self, view: dict[str, Any], names: dict[str, str]) -> str:
        """The line of a view that the model saw; `names` are those of the images, by their URLs."""
        ref = View.from_url(view["url"], self._viewer.store).ref
        part = f"region {list(view['region'])}" if view["region"] else "whole"
        return f"Seen: {names[ref.url]}, {part}, at {view['width']} × {view['height']}."
