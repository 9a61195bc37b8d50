"""What OpenAI's two APIs refuse alike: images, tools, options of reasoning models; and the form of their errors.

The words are those that users report. Those about amounts of images and malformed URLs are ours.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from tests.wire.images import decoded, openai_tokens, schema_faults, strict_base64
from tests.wire.server import Refusal, Request, ShownImage

DETAILS = ("low", "high", "auto", "original")
MEDIA_TYPES = ("image/png", "image/jpeg", "image/gif", "image/webp")
MAX_IMAGES = 500
"""In one request. Source: OpenAI, "Images and vision", "Image input requirements"."""
MAX_BYTES = 50 * 2**20
"""Of all images of a request. Source: as above."""
TOOL_NAME = "^[a-zA-Z0-9_-]+$"


def is_reasoning(model: str) -> bool:
    """Whether the model refuses sampling options: o1, o3, o4-mini, gpt-5*, but not the chat variants of gpt-5."""
    return bool(re.match(r"o\d|gpt-5", model)) and "-chat" not in model


def error_body(refusal: Refusal) -> Any:
    """OpenAI's error body. Source: OpenAI, API reference, "Error codes"."""
    kinds = {401: "invalid_request_error", 404: "invalid_request_error", 500: "server_error"}
    kind = refusal.kind or kinds.get(refusal.status, "invalid_request_error")
    return {"error": {"message": refusal.message, "type": kind, "param": refusal.param, "code": refusal.code}}


def check_key(request: Request) -> None:
    """Refuse a request without a key.

    Raises:
        Refusal: 401.
    """
    if not request.headers.get("authorization", "").startswith("Bearer "):
        raise Refusal("You didn't provide an API key.", 401)


def only(mapping: Mapping[str, Any], allowed: Collection[str], where: str = "") -> None:
    """Refuse fields that the API does not know.

    Raises:
        Refusal: Names the first one.
    """
    for name in mapping:
        if name not in allowed:
            path = f"{where}.{name}" if where else name
            raise Refusal(f"Unknown parameter: '{path}'.", param=path, code="unknown_parameter")


def one_of(value: Any, allowed: Collection[str], where: str) -> str:
    """The value, which must be one of the names.

    Raises:
        Refusal: Says which are right.
    """
    if value not in allowed:
        names = ", ".join(f"'{name}'" for name in allowed)
        said = f"Invalid value: '{value}'. Supported values are: {names}."
        raise Refusal(said, param=where, code="invalid_value")
    return str(value)


def text_of(value: Any, where: str) -> str:
    """The value, which must be a text.

    Raises:
        Refusal: It is none.
    """
    if not isinstance(value, str):
        kind = "null" if value is None else type(value).__name__
        said = f"Invalid type for '{where}': expected a string, but got {kind} instead."
        raise Refusal(said, param=where, code="invalid_type")
    return value


def filled(value: Any, where: str) -> list[Any]:
    """The value, which must be a list with something in it.

    Raises:
        Refusal: It is none, or empty.
    """
    if not isinstance(value, list):
        said = f"Invalid type for '{where}': expected an array, but got {type(value).__name__} instead."
        raise Refusal(said, param=where, code="invalid_type")
    if not value:
        said = (
            f"Invalid '{where}': empty array. Expected an array with minimum length 1, but got an empty array instead."
        )
        raise Refusal(said, param=where, code="empty_array")
    return value


def check_image(request: Request, url: Any, detail: Any, *, role: str, where: str) -> None:
    """Note an image of the request, with what it costs.

    Args:
        request: Gets the image.
        url: What stands where a `data:` URL must.
        detail: What is asked for, or None.
        role: Whose message the image is in.
        where: Its place in the request.

    Raises:
        Refusal: The URL, the bytes or the detail are wrong. This machine fetches no http(s) URL.
    """
    if detail is not None:
        one_of(detail, DETAILS, f"{where}.detail")
    found = re.fullmatch(r"data:([^;,]*);base64,(.*)", text_of(url, where), re.DOTALL)
    if not found:
        said = (
            f"Invalid '{where}'. Expected a base64-encoded data URL with an image MIME type "
            f"(e.g. 'data:image/png;base64,aW1nIGJ5dGVzIGhlcmU='), but got a value without it."
        )
        raise Refusal(said, param=where, code="invalid_value")
    if found[1] not in MEDIA_TYPES:
        raise Refusal(f"Invalid MIME type '{found[1]}'. Only image types are supported.", code="invalid_image_format")
    try:
        data = strict_base64(found[2])
    except ValueError as error:
        raise Refusal("Invalid base64 image_url.", code="invalid_base64") from error
    try:
        image = decoded(data)
    except ValueError as error:
        raise Refusal(
            "You uploaded an unsupported image. Please make sure your image is valid.", code="image_parse_error"
        ) from error
    if image.media_type not in MEDIA_TYPES:
        said = (
            "You uploaded an unsupported image. Please make sure your image has of one the following formats: "
            "['png', 'jpeg', 'gif', 'webp']."
        )
        raise Refusal(said, code="invalid_image_format")
    tokens = openai_tokens(str(request.body.get("model")), image.size, detail)
    request.images.append(ShownImage(role, image.media_type, image.size, detail, tokens))


def check_amount(request: Request, sizes: list[int], most_bytes: int) -> None:
    """Refuse too many images, or too many bytes of them.

    Args:
        request: With its images noted.
        sizes: Bytes of each image, as base64.
        most_bytes: The limit, in bytes as they are decoded.

    Raises:
        Refusal: There are too many.
    """
    if len(request.images) > MAX_IMAGES:
        said = f"Too many images in request. Maximum is {MAX_IMAGES}, but got {len(request.images)}."
        raise Refusal(said, code="too_many_images")
    if sum(sizes) * 3 // 4 > most_bytes:
        said = f"Total image data in a single message exceeds the limit of {most_bytes} bytes."
        raise Refusal(said, 413, code="image_content_too_large")


def check_options(body: Mapping[str, Any]) -> None:
    """Refuse sampling options that reasoning models do not take. Source: OpenAI, "Reasoning models", "Limitations".

    Raises:
        Refusal: Names the option.
    """
    text_of(body.get("model"), "model")
    model = body["model"]
    temperature = body.get("temperature")
    if temperature is not None and not 0 <= temperature <= 2:
        said = f"Invalid 'temperature': decimal out of range. Expected a value between 0 and 2, but got {temperature}."
        raise Refusal(said, param="temperature", code="decimal_above_max_value")
    if is_reasoning(model) and temperature is not None and temperature != 1:
        said = (
            f"Unsupported value: 'temperature' does not support {temperature} with this model. "
            "Only the default (1) value is supported."
        )
        raise Refusal(said, param="temperature", code="unsupported_value")


def check_function(function: Mapping[str, Any], where: str) -> None:
    """Refuse a function that cannot be offered.

    Args:
        function: With `name` and `parameters`.
        where: Its place in the request.

    Raises:
        Refusal: The name or the schema is wrong. The words are those of the API.
    """
    name = text_of(function.get("name"), f"{where}.name")
    check_name(name, f"{where}.name")
    schema = function.get("parameters")
    if schema is None:
        return
    place = f"{where}.parameters"
    if not isinstance(schema, dict) or schema.get("type") != "object":
        kind = schema.get("type") if isinstance(schema, dict) else type(schema).__name__
        said = (
            f"Invalid schema for function '{name}': schema must be a JSON Schema of 'type: \"object\"', "
            f"got 'type: \"{kind}\"'."
        )
        raise Refusal(said, param=place, code="invalid_function_parameters")
    for context, fault in schema_faults(schema):
        said = f"Invalid schema for function '{name}': In context={context}, {fault}."
        raise Refusal(said, param=place, code="invalid_function_parameters")


def check_name(name: str, where: str) -> None:
    """Refuse a name of a function that OpenAI does not take.

    Raises:
        Refusal: It is too long, or has a wrong character.
    """
    if not re.fullmatch(TOOL_NAME, name):
        said = (
            f"Invalid '{where}': string does not match pattern. "
            f"Expected a string that matches the pattern '{TOOL_NAME}'."
        )
        raise Refusal(said, param=where, code="invalid_value")
    if len(name) > 64:
        said = (
            f"Invalid '{where}': string too long. Expected a string with maximum length 64, "
            f"but got a string with length {len(name)} instead."
        )
        raise Refusal(said, param=where, code="string_above_max_length")
