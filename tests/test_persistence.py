"""Conversations that are kept: in every checkpointer, through a kill, small, and without images that are gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command

from tests.checkpointers import IN_MEMORY, KINDS, POSTGRES, SAVERS, fresh_database, opened, opened_async, postgres_saver
from tests.scripted_chat import ANSWER, ZOOM, ScriptedChat, asked, picture, put
from tests.test_as_a_part import RAN, book, confirm, note
from tests.test_zoom_state import conversation
from vtagent.conversation import image_blocks
from vtagent.errors import ImageRefused, ImageTampered
from vtagent.graphs import build_zoom_graph, create_zoom_agent, review_zooms
from vtagent.graphs.intake import LOST
from vtagent.images import DirectoryImageStore
from vtagent.protocol import format_tool_call

pytestmark = IN_MEMORY

ROOT = Path(__file__).parent.parent
CONFIG: Any = {"configurable": {"thread_id": "1"}}


@pytest.mark.parametrize("kind", KINDS)
def test_a_conversation_goes_on_where_it_was_left(kind: str, tmp_path: Path, postgres: Callable[[], str]) -> None:
    store = DirectoryImageStore(tmp_path / "images")
    with opened(kind, tmp_path, postgres) as saver:
        first = create_zoom_agent(ScriptedChat(lines=[ZOOM, ANSWER]), image_store=store, checkpointer=saver)
        first.invoke({"messages": [asked("What is the total?", picture())]}, CONFIG)
        second = create_zoom_agent(ScriptedChat(lines=[ANSWER]), image_store=store, checkpointer=saver)
        result = second.invoke({"messages": [HumanMessage("And in words?")]}, CONFIG)
    assert [message.type for message in result["messages"]] == ["human", "ai", "tool", "ai", "human", "ai"]
    assert [view["kind"] for view in result["views"]] == ["low", "zoom"]
    assert (result["usage"]["zooms"], result["answer"]) == (0, "48.10")


@pytest.mark.parametrize("kind", ["sqlite", POSTGRES])
async def test_the_same_asynchronously(kind: str, tmp_path: Path, postgres: Callable[[], str]) -> None:
    store = DirectoryImageStore(tmp_path / "images")
    async with opened_async(kind, tmp_path, postgres) as saver:
        first = create_zoom_agent(ScriptedChat(lines=[ZOOM, ANSWER]), image_store=store, checkpointer=saver)
        await first.ainvoke({"messages": [asked("What is the total?", picture())]}, CONFIG)
        second = create_zoom_agent(ScriptedChat(lines=[ANSWER]), image_store=store, checkpointer=saver)
        result = await second.ainvoke({"messages": [HumanMessage("And in words?")]}, CONFIG)
    assert [message.type for message in result["messages"]] == ["human", "ai", "tool", "ai", "human", "ai"]
    assert (result["usage"]["zooms"], result["answer"]) == (0, "48.10")


@pytest.mark.parametrize("kind", KINDS)
def test_a_pause_before_a_zoom_is_kept(kind: str, tmp_path: Path, postgres: Callable[[], str]) -> None:
    graph = review_zooms(build_zoom_graph(ScriptedChat(lines=[ZOOM, ANSWER])))
    with opened(kind, tmp_path, postgres) as saver:
        agent = graph.compile(checkpointer=saver)
        agent.invoke({"messages": [asked("What is the total?", picture())]}, CONFIG)
        result = agent.invoke(Command(resume={"decisions": [{"type": "approve"}]}), CONFIG)
    assert (result["usage"]["zooms"], result["answer"]) == (1, "48.10")


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_of_any_characters_is_kept(kind: str, tmp_path: Path, postgres: Callable[[], str]) -> None:
    """PostgreSQL stores no NUL in JSON, where it keeps the answer."""
    with opened(kind, tmp_path, postgres) as saver:
        said = ScriptedChat(lines=["<answer>4\0\ud8008.10</answer>"])
        agent = create_zoom_agent(said, checkpointer=saver)
        agent.invoke({"messages": [asked("What is the total?", picture())]}, CONFIG)
        assert agent.get_state(CONFIG).values["answer"] == "48.10"


@pytest.mark.parametrize("kind", KINDS)
def test_tools_beside_one_that_waits_are_run_once(kind: str, tmp_path: Path, postgres: Callable[[], str]) -> None:
    calls = [("book", {"room": "A"}), ("confirm", {"what": "1"}), ("note", {"text": "n"})]
    lines = ["".join(format_tool_call(name, args) for name, args in calls), ANSWER]
    RAN.clear()
    with opened(kind, tmp_path, postgres) as saver:
        given: list[Any] = [{"messages": [asked("?", picture())]}, Command(resume="yes")]
        for each in given:
            agent = create_zoom_agent(ScriptedChat(lines=lines), tools=[book, confirm, note], checkpointer=saver)
            result = agent.invoke(each, CONFIG)
            lines = [ANSWER]
    texts = [message.text for message in result["messages"] if isinstance(message, ToolMessage)]
    assert (result["answer"], sorted(texts)) == ("48.10", ["1: yes", "booked A", "noted"])
    assert (RAN.count("A"), RAN.count("n")) == (1, 1)


def test_encrypted_checkpoints_show_nothing(tmp_path: Path) -> None:
    with opened("encrypted", tmp_path, lambda: "") as saver:
        agent = create_zoom_agent(ScriptedChat(lines=[ANSWER]), checkpointer=saver)
        agent.invoke({"messages": [asked("A secret question", picture())]}, CONFIG)
    kept = b"".join(file.read_bytes() for file in tmp_path.glob("threads.sqlite*"))
    assert b"secret question" not in kept
    assert b"vtimg" not in kept


def ordinary_agent(saver: Any) -> Any:
    """A graph that knows nothing of images, and keeps what it is given."""
    graph = StateGraph(MessagesState).add_node("model", lambda state: {"messages": [("ai", "48.10")]})
    return graph.add_edge(START, "model").compile(checkpointer=saver)


def base64_in_state(turns: list[Any], saver: Any, durability: Any = None) -> None:
    """The same conversation as an ordinary graph keeps it."""
    agent = ordinary_agent(saver)
    for turn in turns:
        agent.invoke({"messages": [turn]}, CONFIG, durability=durability)


def value_of(saver: PostgresSaver, query: str) -> Any:
    """The one value, called `n`, that a query gives."""
    with saver._cursor() as cursor:
        return cursor.execute(query).fetchone()["n"]  # type: ignore[index]


TABLES = "SELECT sum(pg_total_relation_size(relid)) AS n FROM pg_stat_user_tables"
"""Bytes of all tables, with their indexes."""

SIZES = {
    ("sqlite", "exit"): (100_000, 6_000_000),
    ("sqlite", "sync"): (350_000, 20_000_000),
    ("postgres", "exit"): (400_000, 6_000_000),
    ("postgres", "sync"): (400_000, 16_000_000),
}
"""Bytes of five turns on a 1 MB image: ours at the most, base64 in the state at the least; docs/persist.md has more."""


@pytest.mark.parametrize("durability", ["exit", "sync"])
@pytest.mark.parametrize("kind", ["sqlite", POSTGRES])
def test_five_turns_on_a_megabyte_stay_small(
    kind: str, durability: Any, tmp_path: Path, postgres: Callable[[], str]
) -> None:
    def size(talk: Callable[[Any], None]) -> int:
        if kind == "sqlite":
            folder = tmp_path / str(len(list(tmp_path.iterdir())))
            folder.mkdir()
            with SqliteSaver.from_conn_string(str(folder / "threads")) as saver:
                talk(saver)
            return sum(file.stat().st_size for file in folder.iterdir())
        with postgres_saver(postgres()) as saver:
            talk(saver)
            return int(value_of(saver, TABLES))

    model, turns, data = conversation(tmp_path)

    def ours(saver: Any) -> None:
        agent = create_zoom_agent(model, checkpointer=saver)
        for turn in turns:
            agent.invoke({"messages": [turn]}, CONFIG, durability=durability)

    most, least = SIZES[kind, durability]
    assert len(data) > 900_000
    assert size(ours) < most
    assert size(lambda saver: base64_in_state(turns, saver, durability)) > least


@pytest.mark.parametrize("kind", [POSTGRES])
def test_of_a_pruned_thread_only_the_last_step_is_left(kind: str, tmp_path: Path, postgres: Callable[[], str]) -> None:
    model, turns, _ = conversation(tmp_path)
    with postgres_saver(postgres()) as saver:
        agent = create_zoom_agent(model, checkpointer=saver)
        for turn in turns:
            agent.invoke({"messages": [turn]}, CONFIG, durability="sync")
        assert value_of(saver, "SELECT count(*) AS n FROM checkpoints") > 20
        saver.prune(["1"])
        rows = [value_of(saver, f"SELECT count(*) AS n FROM {table}") for table in ("checkpoints", "checkpoint_writes")]
        assert rows == [1, 0]
        with saver._cursor() as cursor:
            cursor.execute("VACUUM FULL")
        assert value_of(saver, TABLES) < 170_000
        result = agent.invoke({"messages": [HumanMessage("And in words?")]}, CONFIG)
    assert len(result["messages"]) == 14


KILLED = """
import sys, time
from tests.checkpointers import SAVERS
from tests.scripted_chat import ZOOM, ScriptedChat, asked, picture
from vtagent.graphs import create_zoom_agent
from vtagent.images import DirectoryImageStore
from vtagent.protocol import format_tool_call

def never(messages, options):
    print("deciding what to say of the zoom", flush=True)
    time.sleep(3600)

kind, where, images = sys.argv[1:]
with SAVERS[kind].from_conn_string(where) as saver:
    saver.setup()
    store = DirectoryImageStore(images)
    agent = create_zoom_agent(ScriptedChat(lines=[ZOOM, never]), image_store=store, checkpointer=saver)
    config = {"configurable": {"thread_id": "1"}}
    agent.invoke({"messages": [asked("What is the total?", picture())]}, config, durability="sync")
"""


@pytest.mark.parametrize("kind", ["sqlite", POSTGRES])
def test_a_run_killed_between_zoom_and_answer_answers_without_a_second_zoom(
    kind: str, tmp_path: Path, postgres: Callable[[], str]
) -> None:
    where = fresh_database(postgres()) if kind == "postgres" else str(tmp_path / "threads.sqlite")
    command = [sys.executable, "-c", KILLED, kind, where, str(tmp_path / "images")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("deciding")
        os.kill(process.pid, signal.SIGKILL)
    model = ScriptedChat(lines=[ANSWER])
    with SAVERS[kind].from_conn_string(where) as saver:
        agent = create_zoom_agent(model, image_store=DirectoryImageStore(tmp_path / "images"), checkpointer=saver)
        assert agent.get_state(CONFIG).next == ("decide",)
        result = agent.invoke(None, CONFIG)
    assert [message.type for message in result["messages"]] == ["human", "ai", "tool", "ai"]
    assert (len(model.seen), result["usage"]["zooms"], result["usage"]["turns"]) == (1, 1, 2)


@pytest.mark.parametrize(("durability", "checkpoints"), [(None, 1), ("sync", 7), ("async", 7)])
def test_a_run_is_saved_once_unless_asked_otherwise(durability: Any, checkpoints: int, tmp_path: Path) -> None:
    with opened("memory", tmp_path, lambda: "") as saver:
        agent = create_zoom_agent(ScriptedChat(lines=[ZOOM, ANSWER]), checkpointer=saver)
        agent.invoke({"messages": [asked("What is the total?", picture())]}, CONFIG, durability=durability)
        assert len(list(saver.list(CONFIG))) == checkpoints


@contextmanager
def second_turn(tmp_path: Path, spoil: Callable[[Path], Any]) -> Iterator[tuple[ScriptedChat, Callable[[], Any]]]:
    """A thread whose one image is spoilt after the first turn; the model of the second turn, and how to begin it."""
    with SqliteSaver.from_conn_string(str(tmp_path / "threads.sqlite")) as saver:
        first = ScriptedChat(lines=[ZOOM, ANSWER], resolves_images=False)
        store = DirectoryImageStore(tmp_path / "images")
        agent = create_zoom_agent(first, checkpointer=saver, image_store=store)
        agent.invoke({"messages": [asked("What is the total?", picture())]}, CONFIG)
        [file] = (tmp_path / "images").glob("*/*")
        spoil(file)
    with SqliteSaver.from_conn_string(str(tmp_path / "threads.sqlite")) as saver:
        model = ScriptedChat(lines=[ANSWER], resolves_images=False)
        store = DirectoryImageStore(tmp_path / "images")
        agent = create_zoom_agent(model, checkpointer=saver, image_store=store)
        yield model, lambda: agent.invoke({"messages": [HumanMessage("And in words?")]}, CONFIG)


def test_of_a_checkpoint_whose_image_is_gone_the_model_is_told_in_words_and_the_thread_goes_on(tmp_path: Path) -> None:
    with second_turn(tmp_path, Path.unlink) as (model, ask):
        result = ask()
    assert (result["answer"], result["views"]) == ("48.10", [])
    shown = [message for message in model.seen[0] if LOST in message.text]
    assert [message.type for message in shown] == ["human", "tool"]
    assert len(list(image_blocks(result["messages"]))) == 2  # the state still has the names: the image may come back


def test_a_checkpoint_whose_image_was_changed_is_refused_by_name(tmp_path: Path) -> None:
    def change(file: Path) -> None:
        file.write_bytes(picture(64, 48))

    with second_turn(tmp_path, change) as (model, ask):
        [file] = (tmp_path / "images").glob("*/*")
        with pytest.raises(ImageTampered, match=file.name):
            ask()
    assert model.seen == []


def test_a_reference_to_an_image_that_was_tampered_with_is_refused_by_name(tmp_path: Path) -> None:
    store = DirectoryImageStore(tmp_path)
    [block] = put(store, picture(640, 480))
    [file] = (path for path in tmp_path.glob("*/*"))
    file.write_bytes(picture(64, 48))
    agent = create_zoom_agent(
        ScriptedChat(lines=[ANSWER], resolves_images=False), image_store=DirectoryImageStore(tmp_path)
    )
    with pytest.raises(ImageTampered, match=file.name):
        agent.invoke({"messages": [HumanMessage([block, {"type": "text", "text": "?"}])]})


@pytest.mark.parametrize(
    "url", ["vtimg://sha256/../../etc/passwd", "vtimg://sha256/" + "ab" * 31 + "/.", "vtimg:///etc"]
)
def test_a_reference_that_would_leave_the_stores_folder_is_refused(url: str, tmp_path: Path) -> None:
    agent = create_zoom_agent(ScriptedChat(lines=[ANSWER]), image_store=DirectoryImageStore(tmp_path / "images"))
    with pytest.raises(ImageRefused):
        agent.invoke({"messages": [HumanMessage([{"type": "image", "url": url}])]})


def test_a_thread_may_be_called_anything(tmp_path: Path) -> None:
    config: Any = {"configurable": {"thread_id": "../../etc/passwd"}}
    with SqliteSaver.from_conn_string(str(tmp_path / "threads.sqlite")) as saver:
        store = DirectoryImageStore(tmp_path / "images")
        agent = create_zoom_agent(ScriptedChat(lines=[ANSWER]), checkpointer=saver, image_store=store)
        agent.invoke({"messages": [asked("?", picture())]}, config)
        assert agent.get_state(config).values["answer"] == "48.10"
    assert {path.name.partition("-")[0] for path in tmp_path.iterdir()} == {"threads.sqlite", "images"}
