"""Looks into runnables that answer as chat models do: bindings, retries, fallbacks, configurable models, sequences.

`resolved` turns what a caller gives (a name, a configurable model) into the model of the current run. `mapped` changes
the chat models inside a runnable and keeps everything around them. `bind_tools` gives each of them the tools in its own
provider's form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableBinding, RunnableConfig, RunnableSequence, RunnableWithFallbacks
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.config import ensure_config, merge_configs
from langchain_core.runnables.configurable import DynamicRunnable

from vtagent.errors import ModelError

__all__ = ["AnyModel", "Toolable", "bind_tools", "chat_models", "first_chat_model", "mapped", "model_named", "resolved"]

AnyModel: TypeAlias = Runnable[Any, Any]
"""A chat model, or a runnable around chat models."""


def resolved(model: AnyModel | str, config: RunnableConfig | None = None) -> AnyModel:
    """The model of the current run: names are looked up, configurable models are configured.

    Args:
        model: A runnable, or a name as `init_chat_model` takes it.
        config: The run's config; by default that of the run around this call.

    Raises:
        ModelError: A name that cannot be looked up.
    """
    if isinstance(model, BaseChatModel):
        return model
    if isinstance(model, str):
        return model_named(model)
    return mapped(model, lambda each: each, config)


@lru_cache(maxsize=64)
def model_named(name: str) -> BaseChatModel:
    """The chat model that a name such as "openai:gpt-4o" stands for; one name gives one model.

    Args:
        name: As `langchain.chat_models.init_chat_model` takes it.

    Raises:
        ModelError: `langchain` is not installed, or it cannot make this model; the text says why.
    """
    try:
        from langchain.chat_models import init_chat_model
    except ImportError as error:
        raise ModelError(f"to look up the model {name!r} by its name, install langchain") from error
    try:
        model = init_chat_model(name)
        if not isinstance(model, BaseChatModel):
            raise ValueError("there is no name")
    except Exception as error:  # a package that is missing, a key, a name: each provider raises its own
        raise ModelError(f"the model {name!r} cannot be made: {' '.join(str(error).split())[:500]}") from error
    return model


def chat_models(model: AnyModel) -> list[BaseChatModel]:
    """The chat models inside a runnable that was resolved, in order; of fallbacks, the first one first."""
    found: list[BaseChatModel] = []

    def note(each: BaseChatModel) -> BaseChatModel:
        found.append(each)
        return each

    mapped(model, note)
    return found


def first_chat_model(model: object) -> BaseChatModel | None:
    """The chat model by which a graph is set up; None if there is none before a run configures it.

    Args:
        model: A chat model, a runnable around chat models, or anything else.
    """
    if not isinstance(model, Runnable):
        return None
    try:
        return next(iter(chat_models(resolved(model))), None)
    except Exception:  # a configurable model without a default raises what its provider raises
        return None


def mapped(
    model: AnyModel, change: Callable[[BaseChatModel], AnyModel], config: RunnableConfig | None = None
) -> AnyModel:
    """The runnable with each chat model inside it changed; itself if nothing changed.

    Args:
        model: A chat model, or a runnable around chat models. Never modified.
        change: Called with each chat model.
        config: What configurable models are configured with; by default the config of the run around this call.
    """
    match model:
        case BaseChatModel():
            return change(model)
        case RunnableBindingBase():
            inner = merge_configs(config or ensure_config(), model.config) if model.config else config
            bound = mapped(model.bound, change, inner)
            return model if bound is model.bound else model.model_copy(update={"bound": bound})
        case RunnableWithFallbacks():
            first, *others = [mapped(each, change, config) for each in (model.runnable, *model.fallbacks)]
            if first is model.runnable and all(new is old for new, old in zip(others, model.fallbacks, strict=True)):
                return model
            return model.model_copy(update={"runnable": first, "fallbacks": others})
        case DynamicRunnable():
            return mapped(model.prepare(config)[0], change, config)
        case RunnableSequence():
            steps = [mapped(each, change, config) for each in model.steps]
            if all(new is old for new, old in zip(steps, model.steps, strict=True)):
                return model
            return RunnableSequence(*steps, name=model.name)
    if type(model).__name__ == "_ConfigurableModel":  # what `init_chat_model(configurable_fields=…)` returns
        return mapped(model._model(config), change, config)  # type: ignore[attr-defined]
    return model


def bind_tools(model: AnyModel, tools: Sequence[Any], **options: Any) -> Runnable[LanguageModelInput, AIMessage]:
    """The runnable with the tools given to each chat model inside it. What is bound to it already stays.

    Args:
        model: A runnable that was resolved.
        tools: As for `BaseChatModel.bind_tools`.
        options: As for `BaseChatModel.bind_tools`.

    Raises:
        ModelError: A chat model takes no tools, or there is none.
    """

    def bound(each: BaseChatModel) -> AnyModel:
        try:
            return each.bind_tools(tools, **options)
        except NotImplementedError as error:
            raise ModelError(f"{type(each).__name__} cannot be given tools: it has no bind_tools") from error

    if isinstance(model, BaseChatModel) or chat_models(model):
        return mapped(model, bound)
    if isinstance(model, RunnableBindingBase):
        return model.model_copy(update={"bound": bind_tools(model.bound, tools, **options)})
    if callable(own := getattr(model, "bind_tools", None)):  # a runnable of another make that knows how
        given: Runnable[LanguageModelInput, AIMessage] = own(tools, **options)
        return given
    raise ModelError(f"{type(model).__name__} cannot be given tools: there is no chat model in it")


class Toolable(RunnableBinding[LanguageModelInput, AIMessage]):
    """A runnable around chat models as `create_agent` takes it: with `bind_tools`, and the attributes of the first.

    LangChain's own bindings forget what is bound to them when tools are bound; this one does not.
    """

    def bind_tools(self, tools: Sequence[Any], **options: Any) -> Runnable[LanguageModelInput, AIMessage]:
        """As the function `bind_tools`.

        Args:
            tools: As for `BaseChatModel.bind_tools`.
            options: As for `BaseChatModel.bind_tools`.
        """
        return bind_tools(self.bound, tools, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(next(iter(chat_models(self.bound)), self.bound), name)
