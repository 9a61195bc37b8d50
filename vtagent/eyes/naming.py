"""From a LangChain model object, or a name, to what the tables are asked with: by names alone, nothing is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from vtagent.eyes.known import family_of
from vtagent.eyes.wires import UNKNOWN_WIRE, Wire, wire_named, wire_of_class, wire_of_provider

__all__ = ["Asked", "asked"]

_NAMES = ("model_name", "model", "model_id", "deployment_name", "azure_deployment", "base_model_id")
_URLS = ("openai_api_base", "base_url", "anthropic_api_url")
_WRAPPERS = {
    "RunnableBindingBase": "bound",
    "RunnableWithFallbacks": "runnable",
    "RunnableConfigurableFields": "default",
    "RunnableConfigurableAlternatives": "default",
}
_DYNAMIC = {"RunnableConfigurableFields", "RunnableConfigurableAlternatives"}

# The package decides by the tools, too, and a model that may zoom always has one.
_A_TOOL = {"type": "function", "function": {"name": "zoom_image", "parameters": {}}}


@dataclass(frozen=True)
class Asked:
    """What a model is, as far as names tell.

    Attributes:
        model: Its name; empty where it has none.
        described: The model in a message: class and name.
        wire: The API that it is asked by.
        own_vision: Its own attribute `vision`, as ChatVLM has one.
        profile: LangChain's profile of it.
        own_profile: Whether that profile is the caller's, and not the one that the package has for the model's name.
        server: The host of a server that is not the provider's own; empty otherwise.
    """

    model: str
    described: str
    wire: Wire
    own_vision: Any = None
    profile: Mapping[str, Any] = field(default_factory=dict)
    server: str = ""
    own_profile: bool = False


def asked(model: object) -> Asked:
    """What `model` is: a LangChain chat model, a binding or wrapper of one, or a name such as "openai:gpt-4o".

    Of a model with fallbacks, the first is meant.

    Args:
        model: The object or name.
    """
    if isinstance(model, str):
        return _named(model)
    inner, bound = _unwrapped(model)
    if isinstance(inner, str):
        return _named(inner)
    classes = _class_names(inner)
    name = next((value for key in _NAMES if isinstance(value := getattr(inner, key, None), str) and value), "")
    wire = wire_of_class(classes)
    server = _server(inner)
    profile = getattr(inner, "profile", None)
    profile = profile if isinstance(profile, Mapping) else {}
    if wire is None:
        wire = UNKNOWN_WIRE
    elif wire.name == "chat completions" and _uses_responses(inner, bound):
        wire = wire_named("responses")
    described = f"{type(inner).__name__}({name!r})" if name else type(inner).__name__
    return Asked(
        name.removeprefix("models/"),
        described,
        wire,
        getattr(inner, "vision", None),
        profile,
        server,
        bool(profile) and profile != _package_profile(inner),
    )


def _named(text: str) -> Asked:
    """What a name tells: the provider before a colon as `init_chat_model` takes it, else the family."""
    provider, colon, rest = text.partition(":")
    if colon and (wire := wire_of_provider(provider)) is not None:
        return Asked(rest, repr(text), wire)
    family = family_of(text)
    return Asked(text, repr(text), UNKNOWN_WIRE if family is None else wire_named(family.wire))


def _class_names(model: object) -> list[str]:
    """The names along the method resolution order, without the parameters of generic classes."""
    return [cls.__name__.partition("[")[0] for cls in type(model).__mro__]


def _unwrapped(model: Any) -> tuple[Any, dict[str, Any]]:
    """The chat model inside bindings and wrappers, and the arguments that are bound to it."""
    bound: dict[str, Any] = {}
    configured: dict[str, Any] = {}
    for _ in range(32):  # wrappers nest a few deep; the bound keeps a cycle from hanging
        classes = _class_names(model)
        if "_ConfigurableModel" in classes:
            model = _configured(model, bound)
            continue
        if "RunnableSequence" in classes:
            model = _chat_model_of(model.steps)
            continue
        wrapper = next((name for name in _WRAPPERS if name in classes), None)
        if wrapper is None:
            break
        bound = {**(getattr(model, "kwargs", None) or {}), **bound}
        config = getattr(model, "config", None)
        if isinstance(config, Mapping):
            configured = {**(config.get("configurable") or {}), **configured}
        if wrapper in _DYNAMIC and configured:
            model, _ = model.prepare({"configurable": configured})
        else:
            model = getattr(model, _WRAPPERS[wrapper])
    return model, bound


def _configured(model: Any, bound: dict[str, Any]) -> Any:
    """The default of `init_chat_model(configurable_fields=...)`, or its name where it cannot be made now."""
    try:
        return model._model()
    except Exception:  # no default model, no key, a package that is missing: the name must do
        defaults = getattr(model, "_default_config", {})
        name, provider = str(defaults.get("model") or ""), defaults.get("model_provider")
        return f"{provider}:{name}" if provider else name


def _chat_model_of(steps: Sequence[Any]) -> Any:
    """The step of a sequence that holds a chat model; the first step where none does."""
    for step in steps:
        inner, _ = _unwrapped(step)
        if isinstance(inner, str) or "BaseChatModel" in _class_names(inner):
            return step
    return steps[0]


def _uses_responses(model: Any, bound: Mapping[str, Any]) -> bool:
    """Whether langchain-openai would call the Responses API, by its own rule where the package has one."""
    tools = [tool for tool in bound.get("tools") or () if isinstance(tool, Mapping)]
    payload = {**bound, "tools": tools or [_A_TOOL]}
    rule = getattr(model, "_use_responses_api", None)
    if callable(rule):
        return bool(rule(payload))
    return bool(getattr(model, "use_responses_api", None)) or getattr(model, "output_version", None) == "responses/v1"


def _package_profile(model: Any) -> Any:
    """The profile that the model's package has for its name; None where it has none."""
    try:
        return model._resolve_model_profile()
    except Exception:  # each package reads its own data; a profile that cannot be read is none
        return None


def _server(model: object) -> str:
    """The host of an OpenAI-compatible server of somebody else; empty for the provider's own."""
    url = next((value for key in _URLS if isinstance(value := getattr(model, key, None), str) and value), "")
    host = urlsplit(url).hostname or ""
    own = ("api.openai.com", "api.anthropic.com", ".openai.azure.com", ".cognitiveservices.azure.com")
    return "" if host.endswith(own) else host
