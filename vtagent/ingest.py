"""Whatever form a client sends a picture in, the message leaves with a reference to it and without the pixels.

Read here, by the names their senders use:

    standard            {"type": "image", "base64" | "url": …}
    v0                  {"type": "image", "source_type": "base64" | "url", "data" | "url": …}
    JavaScript, MCP     {"type": "image", "data": …, "mimeType": …}
    OpenAI              {"type": "image_url", "image_url": {"url": …} | "…"}
    Responses           {"type": "input_image", "image_url": "…"}
    Anthropic           {"type": "image", "source": {"type": "base64" | "url", "data" | "url": …}}

Left out on purpose: provider file ids (we hold no account to read them with) and anything that would make this process
open a path.
"""

from __future__ import annotations

import base64
import binascii
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage, ToolMessage

from vtagent.errors import ImageError, ImageNotFound, ImageRefused, ImageTooLarge, UnreadableImage
from vtagent.images import ImageStore
from vtagent.views import View, is_reference

__all__ = ["ingest", "ingest_one"]

_DATA_URL = re.compile(r"data:[^,]*;base64,", re.IGNORECASE)


def ingest(
    messages: Sequence[BaseMessage], store: ImageStore, *, fetch: Callable[[str], bytes] | None = None
) -> list[BaseMessage]:
    """Swaps every picture in human, system and tool messages for a reference to the store.

    Args:
        messages: A conversation, or its new part. Never modified.
        store: Where the pictures go. References that are already there must be known to it.
        fetch: Called with each http(s) URL, returns the file; without it remote pictures are refused. It decides which
            hosts may be asked and for how long: a URL in a message is a stranger's wish.

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
    swapped = (ingest_one(message, store, fetch=fetch, position=place) for place, message in enumerate(messages))
    return [message for message in swapped if message is not None]


def ingest_one(
    message: BaseMessage,
    store: ImageStore,
    *,
    fetch: Callable[[str], bytes] | None = None,
    position: int = 0,
    leave: Callable[[object], bool] = lambda _: False,
) -> BaseMessage | None:
    """One message as `ingest` returns it; None if there is nothing to change.

    Args:
        message: See `ingest`, as for `store`, `fetch` and what is raised.
        position: Its place in the conversation, which errors name.
        leave: Says of a block whether it stays as it is, unread.
    """
    if not isinstance(message, HumanMessage | SystemMessage | ToolMessage) or isinstance(message.content, str):
        return None
    content: list[str | dict[Any, Any]] = []
    for index, block in enumerate(message.content):
        try:
            content.append(block if not isinstance(block, dict) or leave(block) else _swap(block, store, fetch))
        except ImageError as error:
            raise type(error)(f"message {position} ({message.type}), block {index}: {error}") from error
    if all(new is old for new, old in zip(content, message.content, strict=True)):
        return None
    return message.model_copy(update={"content": content, "id": message.id or str(uuid.uuid4())})


def _swap(block: dict[Any, Any], store: ImageStore, fetch: Callable[[str], bytes] | None) -> dict[Any, Any]:
    """The block itself if it holds no picture or a good reference, else the reference that replaces it."""
    kind = block.get("type")
    if is_reference(block):
        View.from_block(block, store)
        return block
    if kind in ("image_url", "input_image"):
        link = block.get("image_url")
        return _from_url(link.get("url") if isinstance(link, Mapping) else link, block, store, fetch)
    mime = block.get("mime_type") or block.get("mimeType") or block.get("media_type")
    if kind != "image" and not (kind in ("file", "media") and str(mime).startswith("image/")):
        return block
    source: Mapping[Any, Any] = block["source"] if isinstance(block.get("source"), Mapping) else block
    for key in ("base64", "data"):
        if source.get(key) is not None:
            return _from_base64(source[key], store)
    return _from_url(source.get("url"), block, store, fetch)


def _from_url(
    url: object, block: Mapping[Any, Any], store: ImageStore, fetch: Callable[[str], bytes] | None
) -> dict[str, Any]:
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
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageNotFound(f"could not fetch {url[:200]!r}: {reason}") from error
    return View(store.put(data)).block()


def _from_base64(text: object, store: ImageStore) -> dict[str, Any]:
    """Keeps base64 text, bare or as a data URL; line breaks are allowed, anything else that is not base64 is not."""
    if not isinstance(text, str):
        raise UnreadableImage(f"image data must be base64 text, got {type(text).__name__}")
    if len(text) > 2 * store.limits.max_bytes + 1000:  # base64 takes 4/3, with line breaks or %-escapes a little more
        raise ImageTooLarge(f"{len(text)} base64 characters; at most {store.limits.max_bytes} bytes are allowed")
    if text[:5].lower() == "data:":
        head = _DATA_URL.match(text)
        if head is None:
            raise UnreadableImage(f"data URL {text[:40]!r} is not base64")
        text = text[head.end() :]
        text = unquote(text) if "%" in text else text
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise UnreadableImage(f"image data is not valid base64 ({error})") from None
    return View(store.put(data)).block()
