"""`OffloadSerializer`: no picture in a checkpoint, and what a graph reads back is what it wrote."""

from __future__ import annotations

import base64
import doctest
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from pydantic import BaseModel

from tests.checkpointers import POSTGRES, postgres_saver
from tests.image_samples import encode, scene
from tests.scripted_chat import ANSWER, ZOOM, ScriptedChat, asked, picture
from tests.test_persistence import base64_in_state
from tests.test_zoom_state import has_pixels
from vtagent.errors import ImageTampered
from vtagent.graphs import checkpoints as offload
from vtagent.graphs.checkpoints import KIND, OffloadSerializer, names_instead_of_images
from vtagent.graphs.intake import LOST
from vtagent.graphs.middleware import ZoomMiddleware
from vtagent.images import DirectoryImageStore, ImageLimits, MemoryImageStore

DATA = picture(160, 120, noise=True)
TEXT = base64.b64encode(DATA).decode()

BLOCKS: dict[str, dict[str, Any]] = {
    "standard": {"type": "image", "base64": TEXT, "mime_type": "image/png"},
    "v0": {"type": "image", "source_type": "base64", "data": TEXT, "mime_type": "image/png"},
    "MCP": {"type": "image", "data": TEXT, "mimeType": "image/png"},
    "OpenAI": {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{TEXT}"}},
    "Responses": {"type": "input_image", "image_url": f"data:image/png;base64,{TEXT}"},
    "Anthropic": {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": TEXT}},
}


class Page(BaseModel):
    """A pydantic object in someone's state."""

    scan: str
    number: int


@dataclass
class Scan:
    """A dataclass in someone's state."""

    pixels: bytes


def there_and_back(value: Any, store: MemoryImageStore | None = None) -> tuple[int, Any]:
    serde = OffloadSerializer(store or MemoryImageStore(), allowed_msgpack_modules=[Page, Scan])
    kind, data = serde.dumps_typed(value)
    return len(data), serde.loads_typed((kind, data))


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_pictures_leave_messages_in_every_dialect_and_come_back(block: dict[str, Any]) -> None:
    message = HumanMessage([block, {"type": "text", "text": "What is the total?"}], id="1")
    size, back = there_and_back({"messages": [message]})
    assert size < 500 < 50_000 < len(TEXT)
    assert back == {"messages": [message]}


@pytest.mark.parametrize(
    "value",
    [
        DATA,
        {"screens": {"first": TEXT, 2: (TEXT, DATA)}},
        Page(scan=TEXT, number=2),
        Scan(DATA),
        [
            ToolMessage([BLOCKS["MCP"]], tool_call_id="1", artifact={"raw": DATA}),
            AIMessage("", additional_kwargs={"a": TEXT}),
        ],
    ],
    ids=["bytes", "nested", "pydantic", "dataclass", "messages"],
)
def test_wherever_they_stand(value: Any) -> None:
    size, back = there_and_back([value])
    assert size < 1_500
    expected = JsonPlusSerializer().loads_typed(JsonPlusSerializer().dumps_typed([value]))
    assert back == expected


def test_a_value_that_is_nothing_but_the_bytes_of_a_picture() -> None:
    size, back = there_and_back(DATA)
    assert (size < 200, back) == (True, DATA)


@pytest.mark.parametrize("value", [b"no picture " * 99, b"\x89PNG\r\n\x1a\n" + b"\x00" * 400])
def test_other_bytes_stay_as_the_plain_serialiser_has_them(value: bytes) -> None:
    assert OffloadSerializer(MemoryImageStore()).dumps_typed(value) == ("bytes", value)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_every_format_that_the_store_takes(format: str) -> None:
    data = encode(scene((200, 150)), format)
    assert len(data) > 256
    store = MemoryImageStore()
    _, back = there_and_back([base64.b64encode(data).decode(), data], store)
    assert back == [base64.b64encode(data).decode(), data]
    assert len(store._data) == 1


@pytest.mark.parametrize(
    "value",
    [
        "iVBORw0KGgo" + "A" * 400,
        TEXT + "\n",
        TEXT[:76] + "\n" + TEXT[76:],
        TEXT.rstrip("=") + "AA",
        "data:image/svg+xml,<svg>" + "x" * 400,
        "data:image/png;base64," + "*" * 400,
        "A picture begins with iVBORw0KGgo. " * 20,
        b"\x89PNG\r\n\x1a\n" + b"\x00" * 400,
        base64.b64encode(b"%PDF-1.7 " * 100).decode(),
    ],
)
def test_all_else_stays_as_it_is(value: Any) -> None:
    store = MemoryImageStore()
    assert there_and_back([value, {"k": value}], store)[1] == [value, {"k": value}]
    assert not store._data


def test_a_picture_that_the_store_refuses_stays_in_the_state() -> None:
    store = MemoryImageStore(limits=ImageLimits(max_pixels=100))
    size, back = there_and_back([TEXT], store)
    assert (size > len(TEXT), back) == (True, [TEXT])


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.sampled_from([TEXT, DATA, f"data:image/png;base64,{TEXT}", "vtimg://sha256/" + "ab" * 32]),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text() | st.integers(0, 9), inner)
        | st.tuples(inner, inner)
        | st.frozensets(st.integers(0, 99))
        | inner.map(lambda content: HumanMessage("?", additional_kwargs={"a": content}))
    ),
    max_leaves=12,
)


@settings(max_examples=60)
@given(value=values)
def test_whatever_the_state_it_reads_back_as_without_us(value: Any) -> None:
    plain = JsonPlusSerializer()
    assert there_and_back(value)[1] == plain.loads_typed(plain.dumps_typed(value))


def test_the_same_picture_is_kept_once(tmp_path: Path) -> None:
    serde = OffloadSerializer(DirectoryImageStore(tmp_path))
    for _ in range(3):
        serde.dumps_typed([TEXT, DATA])
    assert len(list(tmp_path.glob("*/*"))) == 1


def test_another_process_reads_it_from_the_shared_folder(tmp_path: Path) -> None:
    saved = OffloadSerializer(DirectoryImageStore(tmp_path)).dumps_typed([TEXT])
    assert OffloadSerializer(DirectoryImageStore(tmp_path)).loads_typed(saved) == [TEXT]


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_a_lost_picture_is_told_in_words_where_it_stood(block: dict[str, Any]) -> None:
    saved = OffloadSerializer(MemoryImageStore()).dumps_typed([HumanMessage([block, {"type": "text", "text": "?"}])])
    [message] = OffloadSerializer(MemoryImageStore()).loads_typed(saved)
    assert message.content == [{"type": "text", "text": LOST}, {"type": "text", "text": "?"}]


def test_outside_of_messages_a_lost_pictures_name_stays() -> None:
    store = MemoryImageStore()
    saved = OffloadSerializer(store).dumps_typed({"scan": TEXT})
    [name] = store._data
    assert OffloadSerializer(MemoryImageStore()).loads_typed(saved) == {"scan": f"vtimg://sha256/{name}"}


def test_a_changed_picture_is_refused_by_name(tmp_path: Path) -> None:
    serde = OffloadSerializer(DirectoryImageStore(tmp_path))
    saved = serde.dumps_typed([TEXT])
    [file] = tmp_path.glob("*/*")
    file.write_bytes(DATA[:-1] + b"\x00")
    with pytest.raises(ImageTampered, match=file.name):
        serde.loads_typed(saved)


def test_a_plain_serialiser_says_that_it_cannot_read_it() -> None:
    with pytest.raises(NotImplementedError, match=KIND):
        JsonPlusSerializer().loads_typed(OffloadSerializer(MemoryImageStore()).dumps_typed([TEXT]))


def test_what_was_saved_without_it_can_still_be_read() -> None:
    saved = JsonPlusSerializer().dumps_typed({"messages": [asked("?", DATA)]})
    assert OffloadSerializer(MemoryImageStore()).loads_typed(saved)["messages"][0].content[0]["base64"] == TEXT


def test_it_can_be_strict_and_encrypted() -> None:
    serde = EncryptedSerializer.from_pycryptodome_aes(
        OffloadSerializer(MemoryImageStore(), allowed_msgpack_modules=None), key=b"sixteen byte key"
    )
    kind, data = serde.dumps_typed([TEXT, Scan(DATA)])
    assert kind == f"{KIND}+aes"
    assert serde.loads_typed((kind, data)) == [TEXT, {"pixels": DATA}]  # a class that strict reading does not know


def test_within_names_instead_of_images_nothing_is_read_from_the_store() -> None:
    store = MemoryImageStore()
    serde = OffloadSerializer(store)
    saved = serde.dumps_typed([TEXT])
    name = store._data.popitem()[0]
    with names_instead_of_images():
        assert serde.loads_typed(saved) == [f"vtimg://sha256/{name}"]


def test_an_ordinary_graph_with_base64_in_its_state_keeps_a_small_database(tmp_path: Path) -> None:
    turns = [asked("What is the total?", picture(640, 480, noise=True)), *[HumanMessage(f"And {n}?") for n in range(4)]]
    sizes = []
    for name, serde in (("plain", None), ("offloaded", OffloadSerializer(DirectoryImageStore(tmp_path / "images")))):
        with SqliteSaver.from_conn_string(str(tmp_path / name)) as saver:
            base64_in_state(turns, saver if serde is None else SqliteSaver(saver.conn, serde=serde))
        sizes.append(sum(file.stat().st_size for file in tmp_path.glob(f"{name}*")))
    assert sizes[0] > 10_000_000
    assert sizes[1] < 200_000


@pytest.mark.parametrize("durability", ["exit", "async", "sync"])
def test_a_stock_agent_leaves_no_pixels_in_the_database_whatever_its_durability(
    durability: Any, tmp_path: Path
) -> None:
    data = picture(640, 480, noise=True)
    store = DirectoryImageStore(tmp_path / "images")
    model = ScriptedChat(lines=[ZOOM, ANSWER], resolves_images=False)
    with SqliteSaver.from_conn_string(str(tmp_path / "threads")) as plain:
        saver = SqliteSaver(plain.conn, serde=OffloadSerializer(store))
        agent = create_agent(model, middleware=[ZoomMiddleware(image_store=store)], checkpointer=saver)
        config: Any = {"configurable": {"thread_id": "1"}}
        agent.invoke({"messages": [asked("?", data)]}, config, durability=durability)
        assert agent.get_state(config).values["zoom"]["usage"]["zooms"] == 1
    kept = b"".join(file.read_bytes() for file in tmp_path.glob("threads*"))
    assert not has_pixels(repr(kept), data)


class Scanned(MessagesState):
    """A conversation, and a key that is one bare string of base64."""

    scan: str


@pytest.mark.parametrize("kind", [POSTGRES])
def test_postgresql_keeps_only_a_bare_string_by_itself(kind: str, tmp_path: Path, postgres: Callable[[], str]) -> None:
    data, scan = picture(640, 480, noise=True), base64.b64encode(picture(160, 120, noise=True)).decode()
    serde = OffloadSerializer(DirectoryImageStore(tmp_path))
    with postgres_saver(postgres(), serde) as saver:
        graph = StateGraph(Scanned).add_node("model", lambda state: {"messages": [("ai", "48.10")]})
        agent = graph.add_edge(START, "model").compile(checkpointer=saver)
        config: Any = {"configurable": {"thread_id": "1"}}
        asking = asked("?", data)
        agent.invoke({"messages": [asking], "scan": scan}, config, durability="sync")
        values = agent.get_state(config).values
        with saver._cursor() as cursor:
            kept = {
                table: repr(cursor.execute(f"SELECT * FROM {table}").fetchall())
                for table in ("checkpoints", "checkpoint_blobs", "checkpoint_writes")
            }
    assert (values["messages"][0].content, values["scan"]) == (asking.content, scan)
    assert not any(has_pixels(text.replace(scan, ""), data) for text in kept.values())
    assert [table for table, text in kept.items() if scan in text] == ["checkpoints"]


def test_the_example_in_the_docstring_holds() -> None:
    names = {"MemoryImageStore": MemoryImageStore, "HumanMessage": HumanMessage, "text": TEXT}
    [example] = [test for test in doctest.DocTestFinder().find(offload, globs=vars(offload) | names) if test.examples]
    assert doctest.DocTestRunner().run(example).failed == 0
