"""What a message may hold beside text and images, and what a caller is told about the rest.

A model that cannot read a block ends every later turn of a conversation that holds it. So such a block is refused in
the newest message, where the caller can mend it, and replaced by a note in all earlier ones.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal, TypeAlias

Kind: TypeAlias = Literal["pdf", "audio", "video", "file", "other", "unknown"]

_PDF = "application/pdf"
_FILES = ("file", "input_file", "document", "media")
_AUDIO = ("audio", "input_audio", "audio_url")
_VIDEO = ("video", "input_video", "video_url")
_IMAGES = ("image", "image_url", "input_image")
_TEXTS = ("text", "input_text", "output_text")

_NATIVE = (
    *("cachePoint", "container_upload", "guard_content", "json", "non_standard", "reasoning", "redacted_thinking"),
    *("refusal", "search_result", "text-plain", "thinking", "tool_reference", "tool_result", "tool_use"),
)
"""Blocks of single providers that LangChain's packages pass on. They are left to the provider."""

_NAMES: dict[Kind, str] = {"pdf": "a PDF", "audio": "audio", "video": "a video", "file": "a file"}
_REMEDIES: dict[Kind, str] = {
    "pdf": "render its pages to images, for example with pypdfium2, and send those",
    "audio": "send a transcript as text",
    "video": "send single frames as images",
    "file": "send its text, or images of its pages",
}
_PROFILE: dict[Kind, str] = {"pdf": "pdf_inputs", "audio": "audio_inputs", "video": "video_inputs"}


def kind_of(block: object) -> Kind | None:
    """What a block is, if it is neither text nor an image; None if it is one of these."""
    if not isinstance(block, Mapping):
        return None
    kind = block.get("type")
    if kind in _TEXTS or kind in _IMAGES:
        return None
    if kind in _AUDIO:
        return "audio"
    if kind in _VIDEO:
        return "video"
    if kind in _FILES:
        return _kind_of_file(block)
    if kind is None and ("text" in block or "cachePoint" in block):  # as Bedrock writes them
        return "other"
    return "other" if isinstance(kind, str) and kind in _NATIVE else "unknown"


def _kind_of_file(block: Mapping[Any, Any]) -> Kind | None:
    inner: Mapping[Any, Any] = next(
        (block[key] for key in ("source", "file") if isinstance(block.get(key), Mapping)), {}
    )
    if inner.get("type") in ("text", "content"):  # a document of Anthropic's that is text
        return "other"
    named = [
        str(part.get(key) or "").lower()
        for part in (block, inner)
        for key in ("mime_type", "mimeType", "media_type", "filename", "file_data", "url", "data")
    ]
    for name in named:
        kind = name.removeprefix("data:")[:80]
        if kind.startswith("image/"):
            return None
        if kind.startswith(("audio/", "video/")):
            return "audio" if kind.startswith("audio/") else "video"
        if kind.startswith(_PDF) or name[-400:].partition("?")[0].endswith(".pdf"):
            return "pdf"
    return "file"


def refusal(block: object, reads: Collection[str]) -> str | None:
    """Why a block cannot be sent to a model, and what to do, in one sentence; None if it can be.

    Args:
        block: A block of a message's content.
        reads: What the model reads beside text and images, as `vtagent.models.capabilities.reads_of` says.
    """
    kind = kind_of(block)
    if kind is None or kind in reads or (kind == "file" and "pdf" in reads):
        return None
    if kind in _REMEDIES:
        say_so = ""
        if kind in _PROFILE and "other" in reads:
            say_so = f'; if it does read it, set profile={{"{_PROFILE[kind]}": True}} on the model'
        return f"the model is not known to read {_NAMES[kind]}: {_REMEDIES[kind]}{say_so}"
    named = block.get("type") if isinstance(block, Mapping) else block
    return f"a block of type {named!r:.80} cannot be read: send text and images"


def note(block: object) -> dict[str, Any]:
    """What a model is told in place of a block that it cannot read."""
    what = _NAMES.get(kind_of(block) or "unknown", "something")
    return {"type": "text", "text": f"[There was {what} here that cannot be shown to you.]"}
