"""Keeps pixels out of checkpoints (`OffloadSerializer`) and lists the images that checkpoints use (`images_in_use`).

    saver = SqliteSaver(connection, serde=OffloadSerializer(DirectoryImageStore("images")))
    collect_garbage(store, images_in_use(saver))  # of `vtagent.garbage`: deletes what no thread refers to any more

A state full of base64 is written again with every step. `OffloadSerializer` puts each image into an image store once,
under its hash, and the checkpoint holds its name. A graph reads back exactly what it wrote: base64 that is not in the
one canonical form, images that the store refuses, and everything that is not an image stay in the checkpoint.

The graphs of this package do not need it, as their state holds references. It also keeps out the images of a caller's
input (see `ZoomMiddleware`). With `EncryptedSerializer` around it, checkpoints are encrypted and images are not.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import ormsgpack
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from vtagent._moved import renamed
from vtagent.errors import ImageNotFound, ImageTooLarge, UnreadableImage
from vtagent.graphs.intake import LOST
from vtagent.images import ImageStore

__all__ = ["OffloadSerializer", "aimages_in_use", "images_in_use", "names_instead_of_images"]

KIND = "msgpack-offload"
"""The kind of what is written: another serialiser refuses it, instead of reading half a state."""

_TAG = 100  # of the msgpack extension that stands for an image; JsonPlusSerializer has 0 to 7
_OPTION = ormsgpack.OPT_NON_STR_KEYS
_SMALLEST = 256  # bytes: a name in place of anything smaller would save next to nothing

_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\x00", b"MM\x00*")
_MAGIC_BASE64 = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "Qk", "SUkq", "TU0A")
_BLOCKS = ("image", "image_url", "input_image", "file", "media")

_NAME = re.compile(rb"vtimg://sha256/([0-9a-f]{64})")

_naming: ContextVar[bool] = ContextVar("_naming", default=False)
_plain = JsonPlusSerializer()


@contextmanager
def names_instead_of_images() -> Iterator[None]:
    """Within it, what is loaded holds `vtimg://` names in place of images, and no image is read from the store."""
    token = _naming.set(True)
    try:
        yield
    finally:
        _naming.reset(token)


class OffloadSerializer(JsonPlusSerializer):
    """LangGraph's own serialiser, with images moved into an image store.

    Args:
        store: Where the images go; every process that reads these checkpoints must open the same one.
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
        """The kind and the bytes of a value, its images put into the store.

        Raises:
            ImageTampered: The store holds other bytes under an image's name.
        """
        kind, data = super().dumps_typed(obj)
        if kind not in ("msgpack", "bytes") or len(data) < _SMALLEST:
            return kind, data
        packed = ormsgpack.packb(data) if kind == "bytes" else data  # a value that is bytes is not packed
        smaller = _rewritten(packed, self._without_image)
        return (kind, data) if smaller is packed else (KIND, smaller)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """The value, its images back in their places.

        An image that the store no longer holds becomes a sentence in a message's content; elsewhere its name stays.

        Raises:
            ImageTampered: The bytes of an image in the store have changed.
        """
        kind, stored = data
        if kind == KIND:
            kind, stored = "msgpack", _rewritten(stored, self._with_image)
        return super().loads_typed((kind, stored))

    def _without_image(self, value: Any) -> Any:
        """An image's stand-in; the value itself if it is anything else."""
        match value:
            case str() if len(value) >= _SMALLEST:
                head, comma, text = value.partition(",") if value[:11] == "data:image/" else ("", "", value)
                if comma and not head.endswith(";base64"):
                    return value
                image = _decoded(text)
                prefix: str | None = head + comma
            case bytes() if len(value) >= _SMALLEST and value.startswith(_MAGIC):
                image, prefix = value, None
            case _:
                return value
        if image is None:
            return value
        try:
            name = self.store.put(image).sha256
        except (UnreadableImage, ImageTooLarge):
            return value
        return _Extension(_TAG, ormsgpack.packb([name, prefix]))

    def _with_image(self, value: Any) -> Any:
        """The image of a stand-in; a block of content around one whose image is lost becomes a sentence."""
        if isinstance(value, _Extension) and value.tag == _TAG:
            name, prefix = ormsgpack.unpackb(value.data)
            if _naming.get():
                return f"vtimg://sha256/{name}"
            try:
                image = self.store.get(name)
            except ImageNotFound:
                return _Lost(f"vtimg://sha256/{name}")
            return image if prefix is None else prefix + base64.b64encode(image).decode("ascii")
        if isinstance(value, dict) and value.get("type") in _BLOCKS and _holds_lost(value):
            return {"type": "text", "text": LOST}
        return value


class _Lost(str):
    """The name of an image that the store does not hold."""


class _Extension:
    """A msgpack extension, which is how an object of any class is written, with msgpack inside."""

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
        except ormsgpack.MsgpackDecodeError:  # the extension of another library
            return value
        value = value if inner is value.data else _Extension(value.tag, inner)
    return change(value)


def _extension(value: _Extension) -> ormsgpack.Ext:
    return ormsgpack.Ext(value.tag, value.data)


def _decoded(text: str) -> bytes | None:
    """The bytes of canonical base64 that begins like an image; None for any other text."""
    if not text.startswith(_MAGIC_BASE64):
        return None
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if base64.b64encode(data) == text.encode("ascii") else None


def _holds_lost(block: dict[Any, Any]) -> bool:
    return any(isinstance(v, _Lost) or (isinstance(v, dict) and _holds_lost(v)) for v in block.values())


def images_in_use(*checkpointers: BaseCheckpointSaver[Any]) -> set[str]:
    """The ids of all images that any thread refers to, in any checkpoint and any pending write of its history.

    Args:
        checkpointers: All that share one image store. Garbage collection deletes the images of one that is left out.
    """
    found: set[str] = set()
    for checkpointer in checkpointers:
        with names_instead_of_images():
            found.update(_names(checkpointer.list(None)))
    return found


async def aimages_in_use(*checkpointers: BaseCheckpointSaver[Any]) -> set[str]:
    """As `images_in_use`, for checkpointers that are asynchronous only."""
    found: set[str] = set()
    for checkpointer in checkpointers:
        with names_instead_of_images():
            async for saved in checkpointer.alist(None):
                found.update(_names([saved]))
    return found


def _names(saved: Iterable[CheckpointTuple]) -> Iterable[str]:
    for checkpoint in saved:
        _, data = _plain.dumps_typed([checkpoint.checkpoint, checkpoint.metadata, checkpoint.pending_writes])
        yield from (name.decode("ascii") for name in _NAME.findall(data))


if not TYPE_CHECKING:  # type checkers must not accept every name

    def __getattr__(name: str) -> object:
        return renamed(__name__, name)
