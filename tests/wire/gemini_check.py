"""What Google's Gemini API refuses in a request's configuration, tools, contents and images.

Sources: Google, Gemini API reference, "Generating content"; "Function calling"; "Thought signatures"; "Media
resolution"; "Image understanding". The errors' words are those that users report, such as google-gemini/gemini-cli
#19436 (images in function responses) and #4504 (number of responses). Those about amounts of images, resolutions of
parts, roles of function parts and the tool configuration are ours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from tests.wire.images import decoded, gemini_tokens, strict_base64
from tests.wire.server import Refusal, Request, ShownImage, words

FIELDS = words(
    "model contents tools toolConfig safetySettings systemInstruction generationConfig cachedContent store serviceTier"
)
PART_FIELDS = words(
    "text inlineData fileData functionCall functionResponse executableCode codeExecutionResult thought "
    "thoughtSignature videoMetadata mediaResolution partMetadata mediaProcessing"
)
DATA_FIELDS = (
    "text",
    "inlineData",
    "fileData",
    "functionCall",
    "functionResponse",
    "executableCode",
    "codeExecutionResult",
)
CONFIG_FIELDS = words(
    "stopSequences responseMimeType responseModalities thinkingConfig temperature topP topK candidateCount "
    "maxOutputTokens responseLogprobs logprobs presencePenalty frequencyPenalty seed responseSchema responseJsonSchema "
    "enableEnhancedCivicAnswers speechConfig imageConfig mediaResolution"
)
SCHEMA_FIELDS = words(
    "type format title description nullable default items minItems maxItems enum properties propertyOrdering required "
    "minProperties maxProperties minimum maximum minLength maxLength pattern example anyOf"
)
TYPES = ("STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL")
RESOLUTIONS = ("UNSPECIFIED", "LOW", "MEDIUM", "HIGH")
"""In `generationConfig`; a part may also ask for ULTRA_HIGH."""
MEDIA_TYPES = ("image/png", "image/jpeg", "image/webp", "image/heic", "image/heif")
MAX_IMAGES = 3_600
CALLERS_OWN = ("args", "response", "parametersJsonSchema", "responseJsonSchema")
"""Fields whose value has names of the caller's own."""
SKIP = "skip_thought_signature_validator"
"""What Google documents for calls whose signature is not known. Source: "Thought signatures"."""
SIGNATURE = "c2lnbmF0dXJl"
"""What all signatures of this server begin with."""


class Check:
    """The checks of one request; `run` makes them all."""

    def __init__(self, request: Request, model: str) -> None:
        self.request, self.body = request, camel(request.body)
        version = re.match(r"gemini-(\d+)", model)
        self.major = int(version[1]) if version else 0
        self.resolution: str | None = None

    def run(self) -> None:
        """Make all checks, and note the request's text and images.

        Raises:
            Refusal: In the API's words.
        """
        _only(self.body, FIELDS, "")
        self._config()
        self._tools()
        system = self.body.get("systemInstruction")
        if system is not None:
            for place, part in enumerate(system.get("parts") or ()):
                self._part(part, "user", f"system_instruction.parts[{place}]")
        contents = self.body.get("contents")
        if not contents:
            raise Refusal("* GenerateContentRequest.contents: contents is not specified\n")
        for place, content in enumerate(contents):
            where = f"contents[{place}]"
            _only(content, {"role", "parts"}, where)
            if content.get("role", "user") not in ("user", "model"):
                raise Refusal("Please use a valid role: user, model.")
            if not content.get("parts"):
                raise Refusal(f"* GenerateContentRequest.{where}.parts: contents.parts must not be empty.\n")
            for number, part in enumerate(content["parts"]):
                self._part(part, content.get("role", "user"), f"{where}.parts[{number}]")
        self._order(contents)
        if self.major >= 3:
            self._signatures(contents)
        if len(self.request.images) > MAX_IMAGES:
            raise Refusal(f"Please use fewer than {MAX_IMAGES} images in your request.")

    def _config(self) -> None:
        config = self.body.get("generationConfig") or {}
        _only(config, CONFIG_FIELDS, "generation_config")
        if (resolution := config.get("mediaResolution")) is not None:
            self.resolution = _resolution(resolution, RESOLUTIONS, "generation_config.media_resolution")
        temperature = config.get("temperature", 1)
        if not 0 <= temperature <= 2:
            where = "* GenerateContentRequest.generation_config.temperature"
            raise Refusal(f"{where}: {temperature} is not in the range [0.0, 2.0].\n")

    def _tools(self) -> None:
        names = []
        for place, tool in enumerate(self.body.get("tools") or ()):
            for number, function in enumerate(tool.get("functionDeclarations") or ()):
                where = f"tools[{place}].function_declarations[{number}]"
                allowed = {"name", "description", "parameters", "parametersJsonSchema", "response", "behavior"}
                _only(function, allowed, where)
                if not re.fullmatch(r"[a-zA-Z_][\w.:-]{0,63}", function.get("name", ""), re.ASCII):
                    raise Refusal(
                        f"* GenerateContentRequest.{where}.name: [FIELD_INVALID] Invalid function name. Must start "
                        "with a letter or an underscore. Must be alphameric (a-z, A-Z, 0-9), underscores (_), dots "
                        "(.), colons (:), or dashes (-), with a maximum length of 64.\n"
                    )
                if (schema := function.get("parameters")) is not None:
                    if schema.get("type") != "OBJECT":
                        raise Refusal(f"* GenerateContentRequest.{where}.parameters.type: must be OBJECT.\n")
                    _schema(schema, f"{where}.parameters")
                names.append(function["name"])
                self.request.characters += len(json.dumps(function))
        config = (self.body.get("toolConfig") or {}).get("functionCallingConfig")
        if config is None:
            return
        if config.get("mode", "AUTO") not in ("AUTO", "ANY", "NONE", "VALIDATED", "MODE_UNSPECIFIED"):
            raise _invalid_value(
                "tool_config.function_calling_config.mode", "FunctionCallingConfig.Mode", config["mode"]
            )
        if not names:
            raise Refusal("Function calling config is set without function_declarations.")
        if missing := [name for name in config.get("allowedFunctionNames") or () if name not in names]:
            raise Refusal(f"allowed_function_names includes names that are not declared: {missing}.")

    def _part(self, part: Any, role: str, where: str) -> None:
        if not isinstance(part, dict):
            raise Refusal(f"Invalid value at '{where}' (type.googleapis.com/Part), {part!r}")
        _only(part, PART_FIELDS, where)
        found = [name for name in DATA_FIELDS if name in part]
        if len(found) != 1:
            said = (
                f"* GenerateContentRequest.{where}.data: required oneof field 'data' must have one initialized field\n"
            )
            raise Refusal(said)
        [kind] = found
        if kind == "text":
            self.request.characters += len(part["text"])
        elif kind == "inlineData":
            self._image(part["inlineData"], role, where, self._level(part, where))
        elif kind == "fileData":
            raise Refusal("Cannot fetch content from the provided URL.")
        elif kind == "functionCall":
            if role != "model":
                raise Refusal("Please ensure that function call turn has role 'model'.")
            self.request.characters += len(json.dumps(part["functionCall"]))
        elif kind == "functionResponse":
            self._function_response(part["functionResponse"], role, where)

    def _level(self, part: Mapping[str, Any], where: str) -> str | None:
        """What the part asks for, else what the whole request asks for."""
        setting = part.get("mediaResolution")
        if setting is None:
            return self.resolution
        if self.major < 3:
            raise Refusal("Media resolution for individual parts is not supported for this model.")
        if not isinstance(setting, dict):
            raise Refusal(
                f"Invalid value at '{where}.media_resolution' (type.googleapis.com/MediaResolution), {setting!r}"
            )
        _only(setting, {"level", "numTokens"}, f"{where}.media_resolution")
        return _resolution(setting.get("level"), (*RESOLUTIONS, "ULTRA_HIGH"), f"{where}.media_resolution.level")

    def _image(self, blob: Mapping[str, Any], role: str, where: str, level: str | None) -> None:
        _only(blob, {"mimeType", "data", "displayName"}, f"{where}.inline_data")
        media_type = blob.get("mimeType")
        if media_type not in MEDIA_TYPES:
            raise Refusal(f"Unsupported MIME type: {media_type}")
        try:  # protocol buffers take both alphabets, and the official client sends the one for URLs
            data = strict_base64(str(blob.get("data", "")).replace("-", "+").replace("_", "/"))
        except ValueError as error:
            said = f"Invalid value at '{where}.inline_data.data' (TYPE_BYTES), Base64 decoding failed"
            raise Refusal(said) from error
        try:
            image = decoded(data)
        except ValueError as error:
            said = "Unable to process input image. Please retry or report in https://developers.generativeai.google/guide/troubleshooting"
            raise Refusal(said) from error
        tokens = gemini_tokens(self.major, image.size, level)
        self.request.images.append(ShownImage(role, image.media_type, image.size, level, tokens))

    def _function_response(self, response: Mapping[str, Any], role: str, where: str) -> None:
        here = f"{where}.function_response"
        _only(response, {"id", "name", "response", "parts", "willContinue", "scheduling"}, here)
        if role != "user":
            raise Refusal("Please ensure that function response turn has role 'user'.")
        if not response.get("name"):
            raise Refusal(f"* GenerateContentRequest.{here}.name: Name cannot be empty.\n")
        if not isinstance(response.get("response"), dict):
            raise Refusal(f"Invalid value at '{here}.response' (type.googleapis.com/google.protobuf.Struct)")
        self.request.characters += len(json.dumps(response["response"]))
        if response.get("parts") and self.major < 3:
            said = "Unable to submit request because `function_response.parts` is not supported for this model."
            raise Refusal(said)
        for place, part in enumerate(response.get("parts") or ()):
            inside = f"{here}.parts[{place}]"
            _only(part, {"inlineData", "fileData", "mediaResolution"}, inside)
            self._image(part.get("inlineData") or {}, "tool", inside, self._level(part, inside))

    def _order(self, contents: list[dict[str, Any]]) -> None:
        waiting: list[dict[str, Any]] = []
        for place, content in enumerate(contents):
            calls = [part["functionCall"] for part in content["parts"] if "functionCall" in part]
            answers = [part["functionResponse"] for part in content["parts"] if "functionResponse" in part]
            if answers and not waiting:
                raise Refusal("Please ensure that function response turn comes immediately after a function call turn.")
            if len(answers) != len(waiting):
                raise Refusal(
                    "Please ensure that the number of function response parts is equal to the number of function call "
                    "parts of the function call turn."
                )
            if calls and (place == 0 or contents[place - 1].get("role", "user") != "user"):
                raise Refusal(
                    "Please ensure that function call turn comes immediately after a user turn or after a function "
                    "response turn."
                )
            waiting = calls
        if waiting:
            raise Refusal(
                "Please ensure that the number of function response parts is equal to the number of function call "
                "parts of the function call turn."
            )

    def _signatures(self, contents: list[dict[str, Any]]) -> None:
        """Refuse a step of the current turn whose first call has lost its signature."""
        start = 0
        for place, content in enumerate(contents):
            answers = any("functionResponse" in part for part in content["parts"])
            if content.get("role", "user") == "user" and not answers:
                start = place
        for place, content in enumerate(contents[start:], start):
            calls = [part for part in content["parts"] if "functionCall" in part]
            if calls and not _known(calls[0].get("thoughtSignature")):
                raise Refusal(
                    "Function call is missing a thought_signature in functionCall parts. This is required for tools to "
                    "work correctly, and missing thought_signature may lead to degraded model performance. Additional "
                    f"data, function call `default_api:{calls[0]['functionCall'].get('name')}` , position {place + 1}. "
                    "Please refer to https://ai.google.dev/gemini-api/docs/thought-signatures for more details."
                )


def camel(value: Any) -> Any:
    """A copy of the request with its field names as in JSON; the API reads `inline_data` and `inlineData` alike.

    Args:
        value: The request, or a part of it. What the caller named, such as a function's arguments, stays as it is.
    """
    if isinstance(value, list):
        return [camel(item) for item in value]
    if not isinstance(value, dict):
        return value
    named = {re.sub(r"_([a-z])", lambda found: found[1].upper(), name): part for name, part in value.items()}
    return {name: part if name in CALLERS_OWN else _camel_part(name, part) for name, part in named.items()}


def _camel_part(name: str, value: Any) -> Any:
    if name == "properties" and isinstance(value, dict):  # its keys are the caller's, its values are schemas
        return {key: camel(part) for key, part in value.items()}
    return camel(value)


def _known(signature: Any) -> bool:
    """Whether a signature is one of ours, or the documented stand-in for one."""
    return str(signature).startswith(SIGNATURE) or signature == SKIP


def _only(mapping: Mapping[str, Any], allowed: Collection[str], where: str) -> None:
    for name in mapping:
        if name not in allowed:
            at = f" at '{where}'" if where else ""
            raise Refusal(f'Invalid JSON payload received. Unknown name "{name}"{at}: Cannot find field.')


def _invalid_value(where: str, kind: str, value: Any) -> Refusal:
    service = "google.ai.generativelanguage.v1beta"
    return Refusal(f"Invalid value at '{where}' (type.googleapis.com/{service}.{kind}), \"{value}\"")


def _resolution(value: Any, allowed: Collection[str], where: str) -> str | None:
    """The resolution without its prefix; None for the default."""
    name = str(value).removeprefix("MEDIA_RESOLUTION_")
    if name not in allowed or not str(value).startswith("MEDIA_RESOLUTION_"):
        raise _invalid_value(where, "GenerationConfig.MediaResolution", value)
    return None if name == "UNSPECIFIED" else name


def _schema(schema: Any, where: str) -> None:
    _only(schema, SCHEMA_FIELDS, where)
    kind = schema.get("type")
    if kind is not None and str(kind).upper() not in TYPES:
        raise _invalid_value(f"{where}.type", "Type", kind)
    if str(kind).upper() == "ARRAY" and "items" not in schema:
        raise Refusal(f"* GenerateContentRequest.{where}.items: missing field.\n")
    for name, part in (schema.get("properties") or {}).items():
        _schema(part, f"{where}.properties[{name}]")
    if "items" in schema:
        _schema(schema["items"], f"{where}.items")
    for place, part in enumerate(schema.get("anyOf") or ()):
        _schema(part, f"{where}.any_of[{place}]")
    for name in schema.get("required") or ():
        if name not in (schema.get("properties") or {}):
            raise Refusal(f"* GenerateContentRequest.{where}.required: property is not defined: {name}\n")
