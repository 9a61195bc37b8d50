"""Documents that a message carries: files and images in it become documents of the conversation, and leave the message.

The dialects that are read, by their senders:

    standard    {"type": "file", "base64": …, "mime_type": …}
    v0          {"type": "file", "source_type": "base64", "data": …, "mime_type": …}
    OpenAI      {"type": "file", "file": {"filename": …, "file_data": "data:…"}}
    Responses   {"type": "input_file", "filename": …, "file_data": "data:…"}
    Anthropic   {"type": "document", "title": …, "source": {"type": "base64", "data": …}}

and images as `vtagent.ingest` reads them. URLs and provider file ids are refused, as there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import BaseMessage

from vtagent.errors import ImageError, ImageRefused
from vtagent.images import ImageStore
from vtagent.ingest import decoded, ingest_message
from vtagent.pages.library import DocumentRecord, record_of
from vtagent.views import is_reference

__all__ = ["take_in_message"]

_KINDS = ("file", "input_file", "document", "media")
_MOST_NAME = 200


def take_in_message(
    message: BaseMessage, store: ImageStore, *, known: Sequence[DocumentRecord] = ()
) -> tuple[list[DocumentRecord], BaseMessage | None]:
    """Puts the files and images of a message into a store.

    Args:
        message: A person's message. Never modified.
        store: Where they go.
        known: Documents that the conversation has already; the new ones' names differ from theirs.

    Returns:
        The documents, and the message with its text alone, under its own id; None if it carries nothing.

    Raises:
        ImageError: A file cannot be used, or is named and not sent; the text names it.
    """
    if isinstance(message.content, str):
        return [], None
    found: list[DocumentRecord] = []
    texts: list[str | dict[Any, Any]] = []
    taken = ingest_message(message, store, leave=lambda block: isinstance(block, dict) and _is_file(block)) or message
    for index, block in enumerate(taken.content):
        if not isinstance(block, dict) or not (_is_file(block) or is_reference(block)):
            texts.append(block)
            continue
        number = len(known) + len(found) + 1
        if is_reference(block):
            name, url = f"image {number}", str(block["url"]).partition("?")[0]
            record = DocumentRecord(name=name, pages=1, url="", images=[url], labels=[name], damage=None)
        else:
            try:
                record = record_of(_name(block) or f"document {number}", _bytes(block, store), store)
            except ImageError as error:
                raise type(error)(f"block {index} of the message: {error}") from error
        record["name"] = _unlike(record["name"], [each["name"] for each in (*known, *found)])
        found.append(record)
    if not found:
        return [], None
    return found, message.model_copy(update={"content": texts})


def _is_file(block: Mapping[Any, Any]) -> bool:
    mime = str(block.get("mime_type") or block.get("mimeType") or "")
    return block.get("type") in _KINDS and not mime.startswith("image/")


def _name(block: Mapping[Any, Any]) -> str:
    """What the sender calls the file, in one printable line."""
    inner = block.get("file") if isinstance(block.get("file"), Mapping) else {}
    extras = block.get("extras") if isinstance(block.get("extras"), Mapping) else {}
    places = [block.get("filename"), block.get("title"), block.get("name")]
    places += [each.get(key) for each in (inner, extras) if each for key in ("filename", "name")]
    name = next((each for each in places if isinstance(each, str) and each.strip()), "")
    return "".join(each for each in name if each.isprintable()).strip()[:_MOST_NAME]


def _bytes(block: Mapping[Any, Any], store: ImageStore) -> bytes:
    """The file.

    Raises:
        ImageRefused: It is not in the block.
        UnreadableImage, ImageTooLarge: As `decoded`.
    """
    inner = next((block[key] for key in ("file", "source") if isinstance(block.get(key), Mapping)), block)
    sent = next((inner[key] for key in ("base64", "data", "file_data") if inner.get(key) is not None), None)
    if sent is None:
        raise ImageRefused("no file in the block: send it as base64; URLs are not fetched and file ids cannot be read")
    return decoded(sent, store.limits.documents.max_bytes)


def _unlike(name: str, taken: Sequence[str]) -> str:
    """The name, with a number behind it if there is such a one."""
    chosen, number = name, 2
    while chosen in taken:
        chosen, number = f"{name} ({number})", number + 1
    return chosen
