"""Replaces the images that clients send, in any of their dialects, by references to the image store.

The dialects that are read, by their senders:

    standard            {"type": "image", "base64" | "url": …}
    v0                  {"type": "image", "source_type": "base64" | "url", "data" | "url": …}
    JavaScript, MCP     {"type": "image", "data": …, "mimeType": …}
    OpenAI              {"type": "image_url", "image_url": {"url": …} | "…"}
    Responses           {"type": "input_image", "image_url": "…"}
    Anthropic           {"type": "image", "source": {"type": "base64" | "url", "data" | "url": …}}

Provider file ids are refused: reading them takes an account. Paths are refused: no message may make this process open a
file.
"""

from __future__ import annotations

import base64
import binascii
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import unquote

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage, ToolMessage

from vtagent._moved import renamed
from vtagent.errors import ImageError, ImageNotFound, ImageRefused, ImageTooLarge, UnreadableImage, one_line
from vtagent.images import ImageStore
from vtagent.views import View, asked_for, is_reference

__all__ = ["Fetch", "decoded", "ingest", "ingest_message"]

Fetch: TypeAlias = Callable[[str], bytes]
"""Reads the file behind an http(s) URL."""

_DATA_URL = re.compile(r"data:[^,]*;base64,", re.IGNORECASE)


def ingest(messages: Sequence[BaseMessage], store: ImageStore, *, fetch: Fetch | None = None) -> list[BaseMessage]:
    """Replaces every image in human, system and tool messages by a reference to the store.

    Args:
        messages: A conversation, or its new part. Never modified.
        store: Where the images go. References in the messages must be known to it.
        fetch: Called with each http(s) URL, returns the file's bytes; without it remote images are refused. It decides
            which hosts may be asked and for how long: a URL in a message comes from a stranger.

    Returns:
        Only the messages that changed, under their own ids (new ones where they had none), so that LangGraph's
        `add_messages` replaces them in place.

    Raises:
        ImageRefused: A remote URL without `fetch`, a path, a file id, an unknown scheme or an unreadable block.
        ImageNotFound: A reference to an image that is not in the store, or a URL that `fetch` failed on.
        UnreadableImage, ImageTooLarge, ImageTampered: As `ImageStore.put`.

    Every error's text names the message and the block at fault.

    Example:
        >>> store = MemoryImageStore()
        >>> [changed] = ingest([HumanMessage([{"type": "image", "base64": png, "mime_type": "image/png"}])], store)
        >>> changed.content[0]["url"]
        'vtimg://sha256/…'
    """
    replaced = (ingest_message(message, store, fetch=fetch, position=place) for place, message in enumerate(messages))
    return [message for message in replaced if message is not None]


def ingest_message(
    message: BaseMessage,
    store: ImageStore,
    *,
    fetch: Fetch | None = None,
    position: int = 0,
    leave: Callable[[object], bool] = lambda _: False,
) -> BaseMessage | None:
    """Replaces every image in one message: the only way in for pixels.

    Args:
        message: A message of any kind. Never modified.
        store: As for `ingest`.
        fetch: As for `ingest`.
        position: The message's place in the conversation, which errors name.
        leave: Whether a block stays as it is, unread.

    Returns:
        The changed message, or None if there is nothing to change.

    Raises:
        ImageError: As `ingest`.
    """
    if not isinstance(message, HumanMessage | SystemMessage | ToolMessage) or isinstance(message.content, str):
        return None
    content: list[str | dict[Any, Any]] = []
    for index, block in enumerate(message.content):
        try:
            if not isinstance(block, dict) or leave(block):
                content.append(block)
            else:
                content.append(_with_mark(_replaced(block, store, fetch), block))
        except ImageError as error:
            raise type(error)(f"message {position} ({message.type}), block {index}: {error}") from error
    if all(new is old for new, old in zip(content, message.content, strict=True)):
        return None
    return message.model_copy(update={"content": content, "id": message.id or str(uuid.uuid4())})


def _with_mark(new: dict[Any, Any], old: dict[Any, Any]) -> dict[Any, Any]:
    """The block that replaces `old`, with its mark for a provider's cache."""
    if new is old or "cache_control" not in old:
        return new
    return {**new, "cache_control": old["cache_control"]}


def _replaced(block: dict[Any, Any], store: ImageStore, fetch: Fetch | None) -> dict[Any, Any]:
    """The reference that replaces a block with an image; the block itself if it has none, or is a good reference."""
    kind = block.get("type")
    if is_reference(block):
        View.from_block(block, store)
        return block
    if kind in ("image_url", "input_image"):
        link = block.get("image_url")
        return _asked(block, _from_url(link.get("url") if isinstance(link, Mapping) else link, block, store, fetch))
    mime = block.get("mime_type") or block.get("mimeType") or block.get("media_type")
    if kind != "image" and not (kind in ("file", "media") and str(mime).startswith("image/")):
        return block
    source: Mapping[Any, Any] = block["source"] if isinstance(block.get("source"), Mapping) else block
    for key in ("base64", "data"):
        if source.get(key) is not None:
            return _asked(block, _from_base64(source[key], store))
    return _asked(block, _from_url(source.get("url"), block, store, fetch))


def _asked(block: Mapping[Any, Any], reference: dict[str, Any]) -> dict[str, Any]:
    """The reference with the caller's own `detail` or `media_resolution`, which the request will carry."""
    if asked := asked_for(block):
        reference["extras"] = {**reference["extras"], **asked}
    return reference


def _from_url(url: object, block: Mapping[Any, Any], store: ImageStore, fetch: Fetch | None) -> dict[str, Any]:
    if not isinstance(url, str) or not url:
        keys = sorted(str(key) for key in block)
        raise ImageRefused(
            f"no picture in the block {keys!r:.120}: send base64 or a data: URL; file ids cannot be read"
        )
    scheme = url[:32].partition(":")[0].lower() if ":" in url[:32] else ""
    if scheme == "vtimg":
        return View.from_url(url, store).block()
    if scheme == "data":
        return _from_base64(url, store)
    if scheme not in ("http", "https"):
        raise ImageRefused(f"{url[:60]!r} is neither a data: nor an http(s) URL; files are never opened for a message")
    if fetch is None:
        raise ImageRefused(f"remote image {url[:200]!r} refused: send the bytes as base64, or set fetch=")
    try:
        data = fetch(url)
    except Exception as error:  # whatever the caller's client raises
        raise ImageNotFound(f"could not fetch {url[:200]!r}: {one_line(error)}") from error
    return View(store.put(data)).block()


def _from_base64(text: object, store: ImageStore) -> dict[str, Any]:
    """Stores an image given as base64 and returns its reference."""
    return View(store.put(decoded(text, store.limits.max_bytes))).block()


def decoded(text: object, most: int) -> bytes:
    """Returns the bytes of base64, bare or as a data URL. Line breaks are allowed.

    Args:
        text: What a client has sent.
        most: Most bytes.

    Raises:
        UnreadableImage: It is no base64.
        ImageTooLarge: It is longer.
    """
    if not isinstance(text, str):
        raise UnreadableImage(f"image data must be base64 text, got {type(text).__name__}")
    if len(text) > 2 * most + 1000:  # base64 takes 4/3, with line breaks or %-escapes a little more
        raise ImageTooLarge(f"{len(text)} base64 characters; at most {most} bytes are allowed")
    if text[:5].lower() == "data:":
        head = _DATA_URL.match(text)
        if head is None:
            raise UnreadableImage(f"data URL {text[:40]!r} is not base64")
        text = text[head.end() :]
        text = unquote(text) if "%" in text else text
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise UnreadableImage(f"image data is not valid base64 ({error})") from None


if not TYPE_CHECKING:  # type checkers must not accept every name

    def __getattr__(name: str) -> object:
        return renamed(__name__, name)
