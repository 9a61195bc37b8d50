"""`vtagent chat`: a conversation about images that goes on where it was left, were it in the middle of an answer.

Threads are kept in one folder: `threads.sqlite` for what was said, `images/` for what was shown. Every step of a run is
saved before the next begins, so a run that was killed is taken up where it stood, without zooming again; once it has
ended only its end is kept. `vtagent forget` deletes a thread, and the images that no thread shows any more.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from itertools import chain
from pathlib import Path
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.sqlite import SqliteSaver
from rich.text import Text

from vtagent.errors import DataError, ModelError, VtagentError
from vtagent.garbage import collect_garbage
from vtagent.graphs import ZoomContext, create_zoom_agent, images_in_use
from vtagent.graphs.zoom import ZoomAgent
from vtagent.images import DirectoryImageStore, ImageStore
from vtagent.served import zoom_token_id
from vtagent.terminal import FORCED, Output, plain, utf_8, working
from vtagent.views import View
from vtagent.visual_tokens import VisionSpec

Load = Callable[[str | None, str | None, ImageStore], tuple[str, BaseChatModel, VisionSpec]]


def chat(options: argparse.Namespace, load: Load) -> None:
    """Take up a thread: finish what was left unfinished, then ask what stdin says, line by line.

    Args:
        options: As `vtagent.options` reads them.
        load: Loads a model: (name, base URL, store) → (its name, the model, its image sizes).

    Raises:
        ImageError: One of the images cannot be used.
        ModelError: A question got no answer.
        DataError: The folder's database cannot be used, or a question not be asked.
    """
    folder = state_folder(options.state)
    store = DirectoryImageStore(folder / "images")
    blocks = [View(store.put_file(path)).block() for path in options.images]
    name, model, vision = load(options.model, options.base_url, store)
    with threads(folder) as saver:
        saver.conn.execute("PRAGMA auto_vacuum = FULL")  # a new file shrinks when steps are dropped
        agent = create_zoom_agent(model, store=store, vision=vision, checkpointer=saver)
        context = ZoomContext(
            max_zooms=options.max_zooms, zoom_bias=options.zoom_bias, zoom_token_id=zoom_token_id(options, name)
        )
        Conversation(agent, saver, options.thread, context, as_json=options.json).hold(blocks)


def forget(options: argparse.Namespace) -> None:
    """Delete a thread, and every image that no thread shows any more and that was not put within the grace period.

    Raises:
        DataError: There is no such thread, or the folder's database cannot be used.
    """
    folder = state_folder(options.state)
    with threads(folder) as saver:
        if saver.get_tuple({"configurable": {"thread_id": options.thread}}) is None:
            raise DataError(f"there is no thread {options.thread!r} in {folder}")
        saver.delete_thread(options.thread)
        collected = collect_garbage(
            DirectoryImageStore(folder / "images"), images_in_use(saver), grace=60.0 * options.grace
        )
    recent = f"; {collected.recent} too recent to delete (see --grace)" if collected.recent else ""
    print(f"forgot {options.thread}: {len(collected.deleted)} images deleted, {collected.in_use} in use{recent}")


def state_folder(given: Path | None) -> Path:
    """Where threads are kept: what is given, else the place for a user's state on this system; made if missing."""
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    folder = given or home / "vtagent"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def threads(folder: Path) -> Iterator[SqliteSaver]:
    """The threads in a folder; a DataError names their file if it is no database, or is locked or full."""
    file = folder / "threads.sqlite"
    try:
        with SqliteSaver.from_conn_string(str(file)) as saver:
            yield saver
    except sqlite3.DatabaseError as error:
        raise DataError(f"{file}: {error}") from error


class Conversation:
    """One thread at a terminal, or with a script."""

    def __init__(
        self, agent: ZoomAgent, saver: SqliteSaver, thread: str, context: ZoomContext, *, as_json: bool
    ) -> None:
        self.agent, self.saver, self.thread, self.context, self.as_json = agent, saver, thread, context, as_json
        self.config: Any = {"configurable": {"thread_id": thread}}
        self.console = Output(highlight=False)

    def hold(self, blocks: list[dict[str, Any]]) -> None:
        """Answer until stdin ends; `blocks` are shown with the first question.

        What was left unfinished and cannot be finished is told, and a new question asked all the same: it may be the
        way out. A script that has none fails.
        """
        lines = _lines()
        if self.agent.get_state(self.config).next:
            try:
                self._answer(None)
            except (VtagentError, OSError) as error:
                if not sys.stdin.isatty():
                    if (first := next(lines, None)) is None:
                        raise
                    lines = chain([first], lines)
                self._told(error)
        for line in lines:
            try:
                if line.split()[0] == "/image":
                    if not (path := line.removeprefix("/image").strip()):
                        raise DataError("say which image: /image PATH")
                    blocks.append(View(self.agent.builder.store.put_file(Path(path))).block())
                    continue
                content: list[str | dict[Any, Any]] = [*blocks, {"type": "text", "text": utf_8(line)}]
                blocks = []
                self._answer({"messages": [HumanMessage(content)]})
            except (VtagentError, OSError) as error:
                if not sys.stdin.isatty():
                    raise
                self._told(error)

    def _answer(self, question: Any) -> None:
        with working("looking"):
            state = self.agent.invoke(question, self.config, context=self.context, durability="sync")
        self._keep_the_end()
        if self.as_json:
            report = {"answer": state["answer"], "stop": state["stop"], "views": state["views"], **state["usage"]}
            print(json.dumps(report), flush=True)
        else:
            self._show(state)
        if not state["answer"]:
            raise ModelError("the model gave no answer")

    def _show(self, state: Any) -> None:
        usage = state["usage"]
        zoomed = f"zoomed {usage['zooms']} ×" if usage["zooms"] else "did not zoom"
        of = f" of {usage['full_visual_tokens']}" if usage["full_visual_tokens"] else ""
        cut = f"; {FORCED[state['stop']]}" if state["stop"] in FORCED else ""
        self.console.print(Text(plain(state["answer"] or "no answer"), style="bold green"))
        self.console.print(Text(f"{zoomed}; {usage['visual_tokens']}{of} visual tokens in view{cut}", style="dim"))

    def _told(self, error: Exception) -> None:
        where = self.console if sys.stdin.isatty() else Output(stderr=True, highlight=False)
        where.print(Text(plain(str(error)), style="red"), soft_wrap=True)

    def _keep_the_end(self) -> None:
        """Drop the steps of runs that have ended: every one of them holds the whole conversation."""
        latest = self.agent.get_state(self.config).config["configurable"]["checkpoint_id"]
        with self.saver.cursor() as cursor:
            for table in ("checkpoints", "writes"):
                cursor.execute(f"DELETE FROM {table} WHERE thread_id = ? AND checkpoint_id <> ?", (self.thread, latest))


def _lines() -> Iterator[str]:
    """What is typed, or what a script sends, line by line; `/quit` or the end of the input ends it."""
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # as in arguments: a path need not be UTF-8, a question must
    for line in map(str.strip, _typed() if sys.stdin.isatty() else sys.stdin):
        if line == "/quit":
            return
        if line:
            yield line


def _typed() -> Iterator[str]:
    import readline  # noqa: F401 - gives `input` its editing keys

    while True:
        try:
            line = input("› ")
        except EOFError:
            return
        yield line
