"""Garbage collection: what no thread shows is deleted, and never what somebody is about to show."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.sqlite import SqliteSaver

from tests.checkpointers import KINDS, POSTGRES, opened, opened_async
from tests.scripted_chat import ANSWER, ZOOM, ScriptedChat, asked, picture
from tests.test_persistence import base64_in_state, ordinary_agent
from vtagent import garbage
from vtagent.errors import ImageNotFound
from vtagent.garbage import collect_garbage
from vtagent.graphs import (
    OffloadSerializer,
    aimages_in_use,
    build_zoom_graph,
    create_zoom_agent,
    images_in_use,
    review_zooms,
)
from vtagent.images import DirectoryImageStore


@pytest.fixture
def store(tmp_path: Path) -> DirectoryImageStore:
    return DirectoryImageStore(tmp_path / "images")


def aged(store: DirectoryImageStore, *names: str, days: float = 2.0) -> None:
    """Make images, or all of them, as if they had been put days ago."""
    then = time.time() - days * garbage.DAY
    for file in store.path.glob("*/*"):
        if not names or file.name in names:
            os.utime(file, (then, then))


def names(store: DirectoryImageStore) -> set[str]:
    return {file.name for file in store.path.glob("*/*")}


def test_what_is_neither_in_use_nor_recent_is_deleted(store: DirectoryImageStore) -> None:
    used, unused, fresh = (store.put(picture(32 * n, 64)).sha256 for n in (1, 2, 3))
    aged(store, used, unused)
    collected = collect_garbage(store, {used})
    assert (collected.deleted, collected.in_use, collected.recent) == ((unused,), 1, 1)
    assert collected.freed == len(picture(64, 64))
    assert names(store) == {used, fresh}
    with pytest.raises(ImageNotFound):
        store.ref(unused)


def test_a_dry_run_only_tells(store: DirectoryImageStore) -> None:
    unused = store.put(picture(64, 64)).sha256
    aged(store)
    assert collect_garbage(store, set(), dry_run=True).deleted == (unused,)
    assert names(store) == {unused}


def test_putting_an_image_again_makes_it_recent(store: DirectoryImageStore) -> None:
    name = store.put(picture(64, 64)).sha256
    aged(store)
    DirectoryImageStore(store.path).put(picture(64, 64))
    assert collect_garbage(store, set()).recent == 1
    assert name in store


def test_an_image_that_is_put_again_while_it_is_being_deleted_stays(
    store: DirectoryImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = store.put(picture(64, 64)).sha256
    aged(store)
    real = os.replace

    def slow(source: Any, target: Any) -> None:
        if Path(target).name.startswith(".doomed"):
            store.put(picture(64, 64))  # after it was found old, before it is taken aside
        real(source, target)

    monkeypatch.setattr(os, "replace", slow)
    assert collect_garbage(store, set()).deleted == ()
    assert store.get(name) == picture(64, 64)


def test_an_image_that_is_put_again_just_after_it_was_taken_aside_is_written_anew(
    store: DirectoryImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = store.put(picture(64, 64)).sha256
    aged(store)
    real = os.replace

    def slow(source: Any, target: Any) -> None:
        real(source, target)
        if Path(target).name.startswith(".doomed"):
            store.put(picture(64, 64))

    monkeypatch.setattr(os, "replace", slow)
    collect_garbage(store, set())
    assert store.get(name) == picture(64, 64)


def test_putting_never_fails_while_garbage_is_collected(store: DirectoryImageStore) -> None:
    pictures = [picture(32 + n, 32) for n in range(12)]
    done = threading.Event()

    def collect() -> None:
        while not done.is_set():
            for file in store.path.glob("*/[0-9a-f]*"):  # all but what is still being written
                with suppress(FileNotFoundError):  # the other collector was faster
                    os.utime(file, (0, 0))
            collect_garbage(store, set())

    collectors = [threading.Thread(target=collect) for _ in range(2)]
    for collector in collectors:
        collector.start()
    try:
        for _ in range(20):
            assert [store.put(data).width for data in pictures] == [32 + n for n in range(12)]
    finally:
        done.set()
        for collector in collectors:
            collector.join()


def test_what_a_killed_process_left_is_cleared_in_time(store: DirectoryImageStore) -> None:
    store.put(picture(64, 64))
    [shelf] = store.path.iterdir()
    for name in (".part-abc", ".doomed-" + "ab" * 32):
        (shelf / name).write_bytes(b"half")
    collect_garbage(store, set())
    assert len(list(shelf.iterdir())) == 3
    aged(store)
    collect_garbage(store, set())
    assert list(shelf.iterdir()) == []


def test_files_that_are_not_the_stores_are_left_alone(store: DirectoryImageStore) -> None:
    (store.path / "ab").mkdir()
    for path in ("ab/notes.txt", "readme", "ab/" + "cd" * 32):
        (store.path / path).write_text("mine")
    aged(store)
    assert collect_garbage(store, set(), grace=0).deleted == ()
    assert len(list(store.path.rglob("*"))) == 4


def test_a_negative_grace_is_refused(store: DirectoryImageStore) -> None:
    with pytest.raises(ValueError, match="negative"):
        collect_garbage(store, set(), grace=-1)


# ---------------------------------------------------------------- what is in use


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_lives_as_long_as_a_thread_shows_it(
    kind: str, store: DirectoryImageStore, tmp_path: Path, postgres: Callable[[], str]
) -> None:
    with opened(kind, tmp_path, postgres) as saver:
        agent = create_zoom_agent(ScriptedChat(lines=[ANSWER]), image_store=store, checkpointer=saver)
        for thread, width in (("first", 64), ("second", 96)):
            config: Any = {"configurable": {"thread_id": thread}}
            agent.invoke({"messages": [asked("?", picture(width, 64))]}, config)
        aged(store)
        assert collect_garbage(store, images_in_use(saver)).in_use == 2
        saver.delete_thread("first")
        assert len(collect_garbage(store, images_in_use(saver)).deleted) == 1
        result = agent.invoke({"messages": [HumanMessage("And?")]}, {"configurable": {"thread_id": "second"}})
        assert len(result["views"]) == 1


def test_what_a_paused_run_has_yet_to_show_is_in_use(store: DirectoryImageStore, tmp_path: Path) -> None:
    graph = review_zooms(build_zoom_graph(ScriptedChat(lines=[ZOOM, ANSWER]), image_store=store))
    with opened("sqlite", tmp_path, lambda: "") as saver:
        agent = graph.compile(checkpointer=saver)
        agent.invoke({"messages": [asked("?", picture(64, 64))]}, {"configurable": {"thread_id": "1"}})
        assert images_in_use(saver) == names(store)


@pytest.mark.parametrize("kind", ["sqlite", POSTGRES])
async def test_what_asynchronous_checkpointers_hold_is_in_use(
    kind: str, store: DirectoryImageStore, tmp_path: Path, postgres: Callable[[], str]
) -> None:
    async with opened_async(kind, tmp_path, postgres) as saver:
        agent = create_zoom_agent(ScriptedChat(lines=[ANSWER]), image_store=store, checkpointer=saver)
        await agent.ainvoke({"messages": [asked("?", picture(64, 64))]}, {"configurable": {"thread_id": "1"}})
        assert await aimages_in_use(saver) == names(store)


def test_images_that_a_serialiser_took_out_are_in_use(store: DirectoryImageStore, tmp_path: Path) -> None:
    with SqliteSaver.from_conn_string(str(tmp_path / "threads")) as plain:
        saver = SqliteSaver(plain.conn, serde=OffloadSerializer(store))
        base64_in_state([asked("?", picture(640, 480))], saver)
        aged(store)
        assert images_in_use(saver) == names(store)
        assert collect_garbage(store, images_in_use(saver)).deleted == ()


@pytest.mark.parametrize("kind", ["sqlite", POSTGRES])
async def test_they_are_in_asynchronous_checkpointers_too(
    kind: str, store: DirectoryImageStore, tmp_path: Path, postgres: Callable[[], str]
) -> None:
    async with opened_async(kind, tmp_path, postgres, OffloadSerializer(store)) as saver:
        config: Any = {"configurable": {"thread_id": "1"}}
        await ordinary_agent(saver).ainvoke({"messages": [asked("?", picture(640, 480))]}, config)
        assert len(names(store)) == 1
        assert await aimages_in_use(saver) == names(store)
