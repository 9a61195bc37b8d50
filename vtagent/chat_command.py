"""The commands `vtagent chat` and `vtagent forget`: conversations about images that survive their process.

All threads are in one folder: messages in `threads.sqlite`, images in `images/`. Every step of a run is saved before
the next one begins, so the next chat finishes a killed run without repeating its zooms. After a run, only its last step
is kept. `vtagent forget` deletes a thread, and the images that no thread shows any more.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from itertools import chain
from pathlib import Path
from typing import Any

try:
    import fcntl
except ModuleNotFoundError:  # Windows: `forget` takes it that a chat is always under way
    fcntl = None  # type: ignore[assignment]

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.sqlite import SqliteSaver
from rich.text import Text

from vtagent.errors import DataError, ModelError, VtagentError
from vtagent.eyes import Vision
from vtagent.garbage import collect_garbage
from vtagent.graphs import ZoomContext, create_zoom_agent, images_in_use
from vtagent.graphs.zoom import ZoomAgent
from vtagent.images import DirectoryImageStore, ImageStore
from vtagent.options import zoom_token_id
from vtagent.terminal import FORCED, Output, printable, spinner
from vtagent.user_input import check_question, image_block

GRACE = 60
"""Minutes for which `forget` keeps an image that no thread shows, while a chat is under way."""
LOCK = "chats.lock"
"""The file that every chat locks as a reader. The system drops the locks of a process that has ended."""

_COMMAND = re.compile(r"/(\w+)(?=\s|$)")
"""A line that begins with a slash and one word is a command, never a question; "/tmp/page.png shows what?" is one."""

Load = Callable[[ImageStore], tuple[str, BaseChatModel, Vision]]


def chat(options: argparse.Namespace, load: Load) -> None:
    """Starts or continues a thread: finishes an unfinished run, then answers the questions on stdin, one per line.

    Args:
        options: The parsed options; see `vtagent.options`.
        load: Loads a model: store → (its name, the model, its image sizes).

    Raises:
        ImageError: An image cannot be used.
        ModelError: The model gave no answer.
        DataError: The folder's database cannot be used, a question is not UTF-8, or there is no such command.
    """
    folder = state_folder(options.state)
    with chat_under_way(folder):
        store = DirectoryImageStore(folder / "images")
        blocks = [image_block(path, store) for path in options.images]
        name, model, vision = load(store)
        with threads(folder) as saver:
            saver.conn.execute("PRAGMA auto_vacuum = FULL")  # lets a new file shrink when steps are deleted
            agent = create_zoom_agent(model, image_store=store, vision=vision, checkpointer=saver)
            context = ZoomContext(
                max_zooms=options.max_zooms, zoom_bias=options.zoom_bias, zoom_token_id=zoom_token_id(options, name)
            )
            ChatSession(agent, saver, options.thread, context, as_json=options.json).run(blocks)


def forget(options: argparse.Namespace) -> None:
    """Deletes a thread, and every image that no thread shows and that was not put within the grace period.

    Without `--grace`, images go at once, unless a chat is under way in the folder. It may have put images that its
    thread does not show yet, so images of the last hour stay. A second call deletes what the first had to leave.

    Args:
        options: The parsed options; see `vtagent.options`.

    Raises:
        DataError: There is no such thread and no image to delete, or the folder's database cannot be used.
    """
    folder = state_folder(options.state)
    with no_chat_under_way(folder) as alone, threads(folder) as saver:
        known = saver.get_tuple({"configurable": {"thread_id": options.thread}}) is not None
        if known:
            saver.delete_thread(options.thread)
        minutes = options.grace if options.grace is not None else 0 if alone else GRACE
        collected = collect_garbage(DirectoryImageStore(folder / "images"), images_in_use(saver), grace=60.0 * minutes)
    if not known and not collected.deleted and not collected.recent:
        raise DataError(f"there is no thread {options.thread!r} in {folder}")
    what = f"forgot {options.thread}" if known else f"there is no thread {options.thread!r} any more"
    why = "see --grace" if options.grace is not None else "a chat is under way; repeat this command when it has ended"
    recent = f"; {collected.recent} too recent to delete ({why})" if collected.recent else ""
    print(f"{what}: {len(collected.deleted)} images deleted, {collected.in_use} in use{recent}")


@contextmanager
def chat_under_way(folder: Path) -> Iterator[None]:
    """Tells `forget`, while the block runs, that a chat may have put images that no thread shows yet."""
    with (folder / LOCK).open("a") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_SH)
        yield


@contextmanager
def no_chat_under_way(folder: Path) -> Iterator[bool]:
    """Keeps chats from starting while the block runs, and yields True; yields False if one is under way."""
    with (folder / LOCK).open("a") as file:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = fcntl is not None
        except BlockingIOError:
            alone = False
        yield alone


def state_folder(given: Path | None) -> Path:
    """Returns the folder of the threads, `given` or the system's folder for user state, and creates it if missing."""
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    folder = given or home / "vtagent"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def threads(folder: Path) -> Iterator[SqliteSaver]:
    """Opens the checkpointer of a folder's threads.

    Raises:
        DataError: Its file is not a database, is locked, or cannot be written. The message names the file.
    """
    file = folder / "threads.sqlite"
    try:
        with SqliteSaver.from_conn_string(str(file)) as saver:
            yield saver
    except sqlite3.DatabaseError as error:
        raise DataError(f"{file}: {error}") from error


class ChatSession:
    """Reads questions from a terminal or a script, and answers them in one thread.

    Args:
        agent: The agent that answers.
        saver: The agent's checkpointer.
        thread: Name of the thread.
        context: Settings of each run.
        as_json: Whether to print one JSON object per answer instead of text.
    """

    def __init__(
        self, agent: ZoomAgent, saver: SqliteSaver, thread: str, context: ZoomContext, *, as_json: bool
    ) -> None:
        self.agent, self.saver, self.thread, self.context, self.as_json = agent, saver, thread, context, as_json
        self.config: Any = {"configurable": {"thread_id": thread}}
        self.console = Output(highlight=False)

    def run(self, blocks: list[dict[str, Any]]) -> None:
        """Finishes an unfinished run, then answers questions until stdin ends.

        If the unfinished run fails again, the error is printed and the next question is asked, since a new question may
        succeed. A script without a question fails with that error.

        Args:
            blocks: Image blocks to show with the first question.

        Raises:
            VtagentError, OSError: A question of a script failed. At a terminal, the error is printed.
        """
        lines = _read_lines()
        if self.agent.get_state(self.config).next:
            try:
                self._answer(None)
            except (VtagentError, OSError) as error:
                if not sys.stdin.isatty():
                    if (first := next(lines, None)) is None:
                        raise
                    lines = chain([first], lines)
                self._print_error(error)
        for line in lines:
            try:
                if command := _COMMAND.match(line):
                    if command[1] != "image":
                        raise DataError(f"there is no command /{command[1]}; there are /image PATH and /quit")
                    if not (path := line.removeprefix("/image").strip()):
                        raise DataError("say which image: /image PATH")
                    blocks.append(image_block(Path(path), self.agent.builder.store))
                    continue
                content: list[str | dict[Any, Any]] = [*blocks, {"type": "text", "text": check_question(line)}]
                blocks = []
                self._answer({"messages": [HumanMessage(content)]})
            except (VtagentError, OSError) as error:
                if not sys.stdin.isatty():
                    raise
                self._print_error(error)

    def _answer(self, question: Any) -> None:
        """Runs the agent on new input, or finishes the unfinished run if `question` is None, and prints the answer."""
        with spinner("looking"):
            state = self.agent.invoke(question, self.config, context=self.context, durability="sync")
        self._drop_earlier_steps()
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
        self.console.print(Text(printable(state["answer"] or "no answer"), style="bold green"))
        self.console.print(Text(f"{zoomed}; {usage['visual_tokens']}{of} visual tokens in view{cut}", style="dim"))

    def _print_error(self, error: Exception) -> None:
        where = self.console if sys.stdin.isatty() else Output(stderr=True, highlight=False)
        where.print(Text(printable(str(error)), style="red"), soft_wrap=True)

    def _drop_earlier_steps(self) -> None:
        """Deletes all steps of the thread but the last, since each step holds the whole conversation."""
        latest = self.agent.get_state(self.config).config["configurable"]["checkpoint_id"]
        with self.saver.cursor() as cursor:
            for table in ("checkpoints", "writes"):
                cursor.execute(f"DELETE FROM {table} WHERE thread_id = ? AND checkpoint_id <> ?", (self.thread, latest))


def _read_lines() -> Iterator[str]:
    """Yields the lines of stdin, stripped and without empty ones, up to `/quit` or the end of the input."""
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # as in arguments: a path may be other than UTF-8
    for line in map(str.strip, _read_terminal() if sys.stdin.isatty() else sys.stdin):
        if line.split(maxsplit=1)[:1] == ["/quit"]:
            return
        if line:
            yield line


def _read_terminal() -> Iterator[str]:
    """Yields the lines that are typed at a prompt."""
    import readline  # noqa: F401 - gives `input` its editing keys

    while True:
        try:
            line = input("› ")
        except EOFError:
            return
        yield line
