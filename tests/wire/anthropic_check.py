"""What Anthropic's Messages API refuses in a request's fields, tools, conversation and images.

Sources: Anthropic, API reference, "Messages"; "Handle tool calls" (order of results); "Vision" (limits of images);
"Prompt caching". The errors' words are those that users report, such as anthropics/claude-code #24541 (100 images),
#4778 (8,000 pixels) and #49537 (2,000 pixels), and UKGovernmentBEIS/inspect_ai #3721 (temperature).
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from itertools import pairwise
from typing import Any

from tests.wire.images import anthropic_tokens, claude_version, decoded, strict_base64
from tests.wire.server import Refusal, Request, ShownImage, words

FIELDS = words(
    "cache_control container context_management diagnostics inference_geo max_tokens mcp_servers messages metadata "
    "model output_config service_tier speed stop_sequences stream system temperature thinking tool_choice tools top_k "
    "top_p user_profile_id workspace_id"
)
BLOCKS = {
    "text": {"type", "text", "cache_control", "citations"},
    "image": {"type", "source", "cache_control", "transformations"},
    "document": {"type", "source", "cache_control", "citations", "context", "title"},
    "search_result": {"type", "source", "title", "content", "cache_control", "citations"},
    "thinking": {"type", "thinking", "signature"},
    "redacted_thinking": {"type", "data"},
    "tool_use": {"type", "id", "name", "input", "cache_control", "caller", "toolset_name"},
    "tool_result": {"type", "tool_use_id", "content", "is_error", "cache_control", "toolset_name"},
}
IN_RESULTS = ("text", "image", "document", "search_result")
TOOL_FIELDS = words(
    "allowed_callers cache_control defer_loading description eager_input_streaming input_examples input_schema name "
    "strict type"
)
MEDIA_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")
MAX_IMAGE_BYTES = 5 * 2**20
"""Of one image, counted as base64. Source: "Vision", "General limits"; that base64 counts: reported by users."""
MAX_IMAGES = 100
MAX_SIDE = 8_000
"""Pixels of the longer side."""
MANY_IMAGES = 20
MAX_SIDE_OF_MANY = 2_000
"""Pixels of the longer side, in a request with more than `MANY_IMAGES` images."""
MAX_CACHE_MARKS = 4


class Check:
    """The checks of one request; `run` makes them all."""

    def __init__(self, request: Request) -> None:
        self.request, self.body = request, request.body
        self.sides: list[tuple[str, tuple[int, int]]] = []

    def run(self) -> None:
        """Make all checks, and note the request's text, images and cache marks.

        Raises:
            Refusal: In the API's words.
        """
        self._options()
        self._mark(self.body, "")
        self._tools()
        self._content(self.body.get("system") or "", "system", "system", ("text",))
        messages: list[Any] = self.body["messages"]
        if not messages:
            raise Refusal("messages: at least one message is required")
        for place, message in enumerate(messages):
            self._message(message, f"messages.{place}", last=place == len(messages) - 1)
        self._roles(messages)
        self._pairs(messages)
        self._ending(messages[-1])
        if len(self.request.images) > MAX_IMAGES:
            raise Refusal(f"Too much media: 0 document pages + {len(self.request.images)} images > {MAX_IMAGES}")
        self._sides()
        if len(self.request.cache_marks) > MAX_CACHE_MARKS:
            found = len(self.request.cache_marks)
            raise Refusal(f"A maximum of {MAX_CACHE_MARKS} blocks with cache_control may be provided. Found {found}.")

    def _options(self) -> None:
        body = self.body
        _only(body, FIELDS, "")
        for name, kind in (("model", str), ("max_tokens", int), ("messages", list)):
            _typed(body, name, kind, name)
        if body["max_tokens"] < 1:
            raise Refusal("max_tokens: Input should be greater than or equal to 1")
        if not 0 <= body.get("temperature", 1) <= 1:
            raise Refusal("temperature: range: 0..1")
        for name in ("temperature", "top_p", "top_k"):
            if claude_version(body["model"]) >= (4, 7) and body.get(name, 1) != 1:
                raise Refusal(f"`{name}` is deprecated for this model.")

    def _mark(self, block: Mapping[str, Any], where: str) -> None:
        mark = block.get("cache_control")
        if mark is None:
            return
        path = f"{where}.cache_control" if where else "cache_control"
        _only(mark, {"type", "ttl"}, path)
        if mark.get("type") != "ephemeral":
            raise Refusal(f"{path}.type: Input should be 'ephemeral'")
        if mark.get("ttl", "5m") not in ("5m", "1h"):
            raise Refusal(f"{path}.ttl: Input should be '5m' or '1h'")
        self.request.cache_marks.append(where or "request")

    def _tools(self) -> None:
        names = []
        for place, tool in enumerate(self.body.get("tools") or ()):
            where = f"tools.{place}.custom"
            _only(tool, TOOL_FIELDS, where)
            _typed(tool, "name", str, f"{where}.name")
            if not re.fullmatch("[a-zA-Z0-9_-]{1,128}", tool["name"]):
                raise Refusal(f"{where}.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'")
            if tool["name"] in names:
                raise Refusal("tools: Tool names must be unique.")
            _typed(tool, "input_schema", dict, f"{where}.input_schema")
            _typed(tool["input_schema"], "type", str, f"{where}.input_schema.type")
            if tool["input_schema"]["type"] != "object":
                raise Refusal(f"{where}.input_schema.type: Input should be 'object'")
            self._mark(tool, f"tools.{place}")
            self.request.characters += len(json.dumps(tool))
            names.append(tool["name"])
        choice = self.body.get("tool_choice")
        if choice is None:
            return
        if not names:
            raise Refusal("tool_choice: tool_choice may only be specified while providing tools.")
        _tagged(choice, ("auto", "any", "tool", "none"), "tool_choice")
        if choice["type"] == "tool" and choice.get("name") not in names:
            raise Refusal(f"tool_choice: Tool '{choice.get('name')}' not found in provided tools")

    def _message(self, message: Any, where: str, *, last: bool) -> None:
        if not isinstance(message, dict):
            raise Refusal(f"{where}: Input should be a valid dictionary")
        _only(message, {"role", "content"}, where)
        if message.get("role") not in ("user", "assistant"):
            raise Refusal(f"{where}.role: Input should be 'user' or 'assistant'")
        if "content" not in message:
            raise Refusal(f"{where}.content: Field required")
        if not message["content"] and not (last and message["role"] == "assistant"):
            raise Refusal(
                f"{where}: all messages must have non-empty content except for the optional final assistant message"
            )
        self._content(message["content"], f"{where}.content", message["role"], tuple(BLOCKS))

    def _content(self, content: Any, where: str, role: str, allowed: Collection[str]) -> None:
        if isinstance(content, str):
            self.request.characters += len(content)
            return
        if not isinstance(content, list):
            raise Refusal(f"{where}: Input should be a valid string or list")
        for place, block in enumerate(content):
            here = f"{where}.{place}"
            _tagged(block, allowed, here)
            kind = block["type"]
            _only(block, BLOCKS[kind], f"{here}.{kind}")
            self._mark(block, here)
            if kind == "text":
                self._text(block, f"{here}.text")
            elif kind == "image":
                self._image(block, f"{here}.image", role)
            elif kind == "tool_use":
                self._use(block, f"{here}.tool_use", role)
            elif kind == "tool_result":
                self._result(block, f"{here}.tool_result", role)

    def _text(self, block: dict[str, Any], where: str) -> None:
        _typed(block, "text", str, f"{where}.text")
        if not block["text"]:
            if block.get("cache_control"):
                raise Refusal(f"{where}: cache_control cannot be set for empty text blocks")
            raise Refusal("messages: text content blocks must be non-empty")
        if not block["text"].strip():
            raise Refusal("messages: text content blocks must contain non-whitespace text")
        self.request.characters += len(block["text"])

    def _use(self, block: dict[str, Any], where: str, role: str) -> None:
        if role != "assistant":
            raise Refusal(f"{where}: `tool_use` blocks can only be in `assistant` messages")
        for name, kind in (("id", str), ("name", str), ("input", dict)):
            _typed(block, name, kind, f"{where}.{name}")
        if not re.fullmatch("[a-zA-Z0-9_-]+", block["id"]):
            raise Refusal(f"{where}.id: String should match pattern '^[a-zA-Z0-9_-]+$'")
        self.request.characters += len(json.dumps(block["input"]))

    def _result(self, block: dict[str, Any], where: str, role: str) -> None:
        if role != "user":
            raise Refusal(f"{where}: `tool_result` blocks can only be in `user` messages")
        _typed(block, "tool_use_id", str, f"{where}.tool_use_id")
        self._content(block.get("content") or "", f"{where}.content", "tool", IN_RESULTS)

    def _image(self, block: dict[str, Any], where: str, role: str) -> None:
        if role == "assistant":
            raise Refusal(f"{where}: `image` blocks are not permitted in `assistant` messages")
        _typed(block, "source", dict, f"{where}.source")
        source = block["source"]
        _tagged(source, ("base64", "url", "file"), f"{where}.source")
        if source["type"] != "base64":
            raise Refusal("Unable to download the file. Please verify the URL and try again.")
        here = f"{where}.source.base64"
        _only(source, {"type", "media_type", "data"}, here)
        if source.get("media_type") not in MEDIA_TYPES:
            said = "Input should be 'image/jpeg', 'image/png', 'image/gif' or 'image/webp'"
            raise Refusal(f"{here}.media_type: {said}")
        _typed(source, "data", str, f"{here}.data")
        if len(source["data"]) > MAX_IMAGE_BYTES:
            raise Refusal(f"{here}: image exceeds 5 MB maximum: {len(source['data'])} bytes > {MAX_IMAGE_BYTES} bytes")
        try:
            data = strict_base64(source["data"])
        except ValueError as error:
            raise Refusal(f"{here}.data: Invalid base64 data") from error
        try:
            image = decoded(data)
        except ValueError as error:
            raise Refusal("Could not process image") from error
        if image.media_type != source["media_type"]:
            said = (
                f"The image was specified using the {source['media_type']} media type, "
                f"but the image appears to be a {image.media_type} image"
            )
            raise Refusal(f"{here}.data: {said}")
        tokens = anthropic_tokens(self.body["model"], image.size)
        self.sides.append((f"{here}.data", image.size))
        self.request.images.append(ShownImage(role, image.media_type, image.size, None, tokens))

    def _sides(self) -> None:
        many = len(self.sides) > MANY_IMAGES
        for where, size in self.sides:
            if max(size) > MAX_SIDE:
                said = f"At least one of the image dimensions exceed max allowed size: {MAX_SIDE} pixels"
                raise Refusal(f"{where}: {said}")
            if many and max(size) > MAX_SIDE_OF_MANY:
                said = (
                    "At least one of the image dimensions exceed max allowed size for many-image requests: 2000 pixels"
                )
                raise Refusal(f"{where}: {said}")

    def _roles(self, messages: list[dict[str, Any]]) -> None:
        if messages[0]["role"] != "user":
            raise Refusal('messages: first message must use the "user" role')
        for before, after in pairwise(messages):
            if before["role"] == after["role"]:
                said = f'but found multiple "{after["role"]}" roles in a row'
                raise Refusal(f'messages: roles must alternate between "user" and "assistant", {said}')

    def _pairs(self, messages: list[dict[str, Any]]) -> None:
        seen: set[str] = set()
        for place, message in enumerate(messages):
            uses = _of(message, "tool_use")
            for use in uses:
                if use["id"] in seen:
                    raise Refusal(f"messages.{place}.content: `tool_use` ids must be unique")
                seen.add(use["id"])
            ids = [use["id"] for use in uses]
            blocks = messages[place + 1]["content"] if place + 1 < len(messages) else []
            first = blocks[: len(ids)] if isinstance(blocks, list) else []
            answered = [block.get("tool_use_id") for block in first if block["type"] == "tool_result"]
            if missing := [id_ for id_ in ids if id_ not in answered]:
                raise Refusal(
                    f"messages.{place}: `tool_use` ids were found without `tool_result` blocks immediately after: "
                    f"{', '.join(missing)}. Each `tool_use` block must have a corresponding `tool_result` block in the "
                    "next message."
                )
            results = _of(messages[place + 1], "tool_result") if place + 1 < len(messages) else []
            if place == 0:
                results = results + _of(message, "tool_result")
            for result in results:
                if result["tool_use_id"] not in ids:
                    raise Refusal(
                        f"messages.{place + 1}.content: unexpected `tool_use_id` found in `tool_result` blocks: "
                        f"{result['tool_use_id']}. Each `tool_result` block must have a corresponding `tool_use` block "
                        "in the previous message."
                    )
        if seen and not self.body.get("tools"):
            raise Refusal("Requests which include `tool_use` or `tool_result` blocks must define tools")

    def _ending(self, message: dict[str, Any]) -> None:
        if message["role"] != "assistant":
            return
        if claude_version(self.body["model"]) >= (4, 6):
            said = (
                "This model does not support assistant message prefill. The conversation must end with a user message."
            )
            raise Refusal(said)
        content = message["content"]
        text = content if isinstance(content, str) else content[-1].get("text", "") if content else ""
        if text != text.rstrip():
            raise Refusal("messages: final assistant content cannot end with trailing whitespace")


def _of(message: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    content = message["content"]
    return [block for block in content if block["type"] == kind] if isinstance(content, list) else []


def _only(mapping: Mapping[str, Any], allowed: Collection[str], where: str) -> None:
    for name in mapping:
        if name not in allowed:
            raise Refusal(f"{where}.{name}: Extra inputs are not permitted".lstrip("."))


def _typed(mapping: Mapping[str, Any], name: str, kind: type, where: str) -> None:
    if name not in mapping:
        raise Refusal(f"{where}: Field required")
    if not isinstance(mapping[name], kind) or isinstance(mapping[name], bool):
        names = {str: "string", int: "integer", list: "list", dict: "dictionary"}
        raise Refusal(f"{where}: Input should be a valid {names[kind]}")


def _tagged(block: Any, allowed: Collection[str], where: str) -> None:
    if not isinstance(block, dict):
        raise Refusal(f"{where}: Input should be a valid dictionary or object to extract fields from")
    if block.get("type") not in allowed:
        tags = ", ".join(f"'{tag}'" for tag in sorted(allowed))
        said = f"Input tag '{block.get('type')}' found using 'type' does not match any of the expected tags: {tags}"
        raise Refusal(f"{where}: {said}")
