"""Every way to keep a conversation, each fresh and empty: memory, SQLite, PostgreSQL; strict, encrypted, offloading."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from vtagent.graphs import OffloadSerializer
from vtagent.images import MemoryImageStore

Saver = BaseCheckpointSaver[Any]


@cache
def programs() -> Path | None:
    """The folder of PostgreSQL's server programs, the newest, on this machine."""
    found = [Path(path).parent for path in [shutil.which("postgres")] if path]
    return next(iter(found + sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)


SKIPPED = not programs() and not os.environ.get("REQUIRE_POSTGRES")


def _on_postgres(kind: str) -> Any:
    return pytest.param(
        kind,
        id=f"{kind}-skipped-as-no-server-is-installed" if SKIPPED else kind,
        marks=pytest.mark.skipif(SKIPPED, reason="no PostgreSQL server is installed"),
    )


POSTGRES = _on_postgres("postgres")
KINDS = ["memory", "sqlite", POSTGRES, "strict", "encrypted", "offload", _on_postgres("offload-postgres")]
SAVERS: dict[str, Any] = {"sqlite": SqliteSaver, "postgres": PostgresSaver}


@contextmanager
def postgres_server() -> Iterator[str]:
    """A PostgreSQL server of our own on loopback, its data in a temporary folder; yields where to connect."""
    folder = programs()
    assert folder is not None
    # The server refuses to run as root.
    user = next(u.pw_name for u in pwd.getpwall() if u.pw_name in ("postgres", "nobody")) if os.geteuid() == 0 else None
    group = pwd.getpwnam(user).pw_gid if user else None
    place = Path(tempfile.mkdtemp(prefix="vtagent-postgres-"))
    if user:
        shutil.chown(place, user)
    rights: dict[str, Any] = {"user": user, "group": group, "extra_groups": []} if user else {}
    data, port = place / "data", _free_port()
    initdb: list[Any] = [
        folder / "initdb",
        "-D",
        data,
        "-U",
        "postgres",
        "--auth=trust",
        "--no-sync",
        "--locale=C",
        "-E",
        "UTF8",
    ]
    subprocess.run(initdb, check=True, capture_output=True, cwd=place, **rights)
    options = ["-h", "127.0.0.1", "-p", str(port), "-k", str(place)]
    # A vacuum that begins by itself in the middle of a test adds its maps to what is measured.
    for setting in ("fsync=off", "max_connections=20", "autovacuum=off"):
        options += ["-c", setting]
    server = subprocess.Popen(
        [folder / "postgres", "-D", data, *options], cwd=place, stderr=subprocess.DEVNULL, **rights
    )
    uri = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    try:
        _wait_for(uri, server)
        yield uri
    finally:
        server.terminate()
        server.wait(60)
        shutil.rmtree(place)


def _wait_for(uri: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        try:
            psycopg.connect(uri).close()
            return
        except psycopg.OperationalError:
            assert server.poll() is None, "the server ended"
            time.sleep(0.1)
    raise AssertionError("the server does not answer")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def fresh_database(uri: str) -> str:
    """Where an empty database of a server answers; the one before it is dropped."""
    with psycopg.connect(uri, autocommit=True) as admin:
        admin.execute("DROP DATABASE IF EXISTS fresh WITH (FORCE)")
        admin.execute("CREATE DATABASE fresh")
    return uri.removesuffix("postgres") + "fresh"


@contextmanager
def postgres_saver(uri: str, serde: Any = None) -> Iterator[PostgresSaver]:
    """A saver in a database of its own."""
    with PostgresSaver.from_conn_string(fresh_database(uri)) as plain:
        saver = PostgresSaver(plain.conn, serde=serde)
        saver.setup()
        yield saver


def strict() -> JsonPlusSerializer:
    """Reads nothing but what LangGraph itself lists as safe."""
    return JsonPlusSerializer(allowed_msgpack_modules=None)


def encrypted() -> EncryptedSerializer:
    """Encrypts what the strict one writes."""
    return EncryptedSerializer.from_pycryptodome_aes(strict(), key=b"sixteen byte key")


def opened(kind: str, folder: Path, uri: Callable[[], str]) -> AbstractContextManager[Saver]:
    """A checkpointer of a kind; `uri` gives the PostgreSQL server, started when first asked for."""
    path = str(folder / "threads.sqlite")
    match kind:
        case "memory":
            return InMemorySaver()
        case "postgres":
            return postgres_saver(uri())
        case "sqlite":
            return SqliteSaver.from_conn_string(path)
        case "offload-postgres":
            return postgres_saver(uri(), OffloadSerializer(MemoryImageStore()))
    serde: Any = {"strict": strict, "encrypted": encrypted, "offload": lambda: OffloadSerializer(MemoryImageStore())}
    return _with_serde(path, serde[kind]())


@contextmanager
def _with_serde(path: str, serde: Any) -> Iterator[SqliteSaver]:
    with SqliteSaver.from_conn_string(path) as plain:
        yield SqliteSaver(plain.conn, serde=serde)


@asynccontextmanager
async def opened_async(
    kind: str, folder: Path, uri: Callable[[], str], serde: Any = None
) -> AsyncIterator[AsyncSqliteSaver | AsyncPostgresSaver]:
    """An asynchronous checkpointer, "sqlite" or "postgres"."""
    if kind == "sqlite":
        async with AsyncSqliteSaver.from_conn_string(str(folder / "threads.sqlite")) as plain:
            yield AsyncSqliteSaver(plain.conn, serde=serde)
    else:
        async with AsyncPostgresSaver.from_conn_string(fresh_database(uri()), serde=serde) as saver:
            await saver.setup()
            yield saver


IN_MEMORY = pytest.mark.filterwarnings("ignore:.*their images are in this process's memory:UserWarning")
"""For tests that keep conversations with a checkpointer, and their images in memory."""
