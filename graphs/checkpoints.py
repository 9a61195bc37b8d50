"""`OffloadSerializer`: checkpoints of anyone's graph, without the pictures: they go into an image store, and come back.

    saver = SqliteSaver(connection, serde=OffloadSerializer(DirectoryImageStore("images")))

A state full of base64 is written again with every step. Here each picture is kept once, under its hash, and the
checkpoint holds its name. What a graph reads back is what it wrote, to the last character: base64 that is not in the
one canonical form, pictures that the store refuses, and all that is no picture stay where they are.

Graphs of this package need none of this, their state holds references anyway; it also keeps out what a caller's input
carried (see `ZoomMiddleware`). With `EncryptedSerializer` around it the checkpoints are encrypted, the images are not.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import ormsgpack
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from vtagent.errors import ImageNotFound, ImageTooLarge, UnreadableImage
from vtagent.graphs.model_call import LOST
from vtagent.images import ImageStore

__all__ = ["OffloadSerializer", "names_instead_of_pictures"]

KIND = "msgpack-offload"
"""A kind of its own: another serialiser says that it does not know it, rather than reading half a state."""

_TAG = 100  # of the msgpack extension that stands for a picture; JsonPlusSerializer has 0 to 7
_OPTION = ormsgpack.OPT_NON_STR_KEYS
_SMALLEST = 256  # bytes: below, a name would save next to nothing

_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\x00", b"MM\x00*")
_MAGIC_BASE64 = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "Qk", "SUkq", "TU0A")
_BLOCKS = ("image", "image_url", "input_image", "file", "media")

_naming: ContextVar[bool] = ContextVar("_naming", default=False)


@contextmanager
def names_instead_of_pictures() -> Iterator[None]:
    """Within it, what is loaded holds `vtimg://` names where the pictures were: to know which are in use, say."""
    token = _naming.set(True)
    try:
        yield
    finally:
        _naming.reset(token)


class OffloadSerializer(JsonPlusSerializer):
    """LangGraph's own serialiser, with pictures moved into an image store.

    Args:
        store: Where the pictures go; every process that reads these checkpoints must open the same one.
        options: As for `JsonPlusSerializer`: `allowed_msgpack_modules=None` is its strict form.

    Example:
        >>> store = MemoryImageStore()
        >>> serde = OffloadSerializer(store)
        >>> state = {"messages": [HumanMessage([{"type": "image", "base64": text, "mime_type": "image/png"}])]}
        >>> kind, data = serde.dumps_typed(state)
        >>> len(text) > 10_000 > 1_000 > len(data), serde.loads_typed((kind, data)) == state
        (True, True)
    """

    def __init__(self, store: ImageStore, **options: Any) -> None:
        super().__init__(**options)
        self.store = store

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """The kind and the bytes of a value, its pictures put into the store.

        Raises:
            ImageTampered: The store holds other bytes under a picture's name.
        """
        kind, data = super().dumps_typed(obj)
        if kind not in ("msgpack", "bytes") or len(data) < _SMALLEST:
            return kind, data
        packed = ormsgpack.packb(data) if kind == "bytes" else data  # a value that is bytes is not packed
        smaller = _rewritten(packed, self._without_picture)
        return (kind, data) if smaller is packed else (KIND, smaller)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """The value, its pictures back in their places.

        A picture that is gone from the store is told of in words, where it stood in a message's content; elsewhere its
        name stays.

        Raises:
            ImageTampered: A picture in the store is no longer what it was.
        """
        kind, stored = data
        if kind == KIND:
            kind, stored = "msgpack", _rewritten(stored, self._with_picture)
        return super().loads_typed((kind, stored))

    def _without_picture(self, value: Any) -> Any:
        """A picture's stand-in; the value itself if it is anything else."""
        match value:
            case str() if len(value) >= _SMALLEST:
                head, comma, text = value.partition(",") if value[:11] == "data:image/" else ("", "", value)
                if comma and not head.endswith(";base64"):
                    return value
                picture = _decoded(text)
                prefix: str | None = head + comma
            case bytes() if len(value) >= _SMALLEST and value.startswith(_MAGIC):
                picture, prefix = value, None
            case _:
                return value
        if picture is None:
            return value
        try:
            name = self.store.put(picture).sha256
        except (UnreadableImage, ImageTooLarge):
            return value
        return _Extension(_TAG, ormsgpack.packb([name, prefix]))

    def _with_picture(self, value: Any) -> Any:
        """What a stand-in stands for; a block of content around one whose picture is lost becomes words."""
        if isinstance(value, _Extension) and value.tag == _TAG:
            name, prefix = ormsgpack.unpackb(value.data)
            if _naming.get():
                return f"vtimg://sha256/{name}"
            try:
                picture = self.store.get(name)
            except ImageNotFound:
                return _Lost(f"vtimg://sha256/{name}")
            return picture if prefix is None else prefix + base64.b64encode(picture).decode("ascii")
        if isinstance(value, dict) and value.get("type") in _BLOCKS and _holds_lost(value):
            return {"type": "text", "text": LOST}
        return value


class _Lost(str):
    """The name of a picture that the store does not hold."""


class _Extension:
    """A msgpack extension: objects of any class come as these, with msgpack inside."""

    def __init__(self, tag: int, data: bytes) -> None:
        self.tag, self.data = tag, data


def _rewritten(data: bytes, change: Callable[[Any], Any]) -> bytes:
    """Msgpack with `change` applied to every value in it, innermost first; `data` itself if nothing changed."""
    old = ormsgpack.unpackb(data, ext_hook=_Extension, option=_OPTION)
    new = _walk(old, change)
    return data if new is old else ormsgpack.packb(new, default=_extension, option=_OPTION)


def _walk(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, list):
        items = [_walk(item, change) for item in value]
        value = value if all(a is b for a, b in zip(items, value, strict=True)) else items
    elif isinstance(value, dict):
        fields = {key: _walk(item, change) for key, item in value.items()}
        value = value if all(fields[key] is item for key, item in value.items()) else fields
    elif isinstance(value, _Extension) and value.tag != _TAG:
        try:
            inner = _rewritten(value.data, change)
        except ormsgpack.MsgpackDecodeError:  # an extension of someone else's
            return value
        value = value if inner is value.data else _Extension(value.tag, inner)
    return change(value)


def _extension(value: _Extension) -> ormsgpack.Ext:
    return ormsgpack.Ext(value.tag, value.data)


def _decoded(text: str) -> bytes | None:
    """The bytes of canonical base64 that begins like a picture; None for any other text."""
    if not text.startswith(_MAGIC_BASE64):
        return None
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if base64.b64encode(data) == text.encode("ascii") else None


def _holds_lost(block: dict[Any, Any]) -> bool:
    return any(isinstance(v, _Lost) or (isinstance(v, dict) and _holds_lost(v)) for v in block.values())
