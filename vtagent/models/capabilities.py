"""What a given chat model can do, and how its provider wants to be told: every such rule is here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import Runnable

from vtagent.errors import ModelError
from vtagent.eyes import Vision, eyes_of
from vtagent.images import ImageStore, default_store
from vtagent.models.runnables import chat_models


def store_of(model: object, default: ImageStore | None = None) -> ImageStore:
    """The model's own image store, else `default`, else this process's own.

    A model that is not ours may call it `store`. `ChatOpenAI` has a setting of that name, which is no image store.
    """
    own = getattr(model, "image_store", None) or getattr(model, "store", None)
    if isinstance(own, ImageStore):
        return own
    return default_store() if default is None else default


def vision_of(model: object) -> Vision:
    """What the model does to the size of an image, and what it bills."""
    return eyes_of(model, warn=False).vision


def reads_references(model: object) -> bool:
    """Whether the model turns references into pixels itself, as `ChatVLM` does."""
    return bool(getattr(model, "resolves_images", False))


def takes_tool_images(model: BaseChatModel) -> bool:
    """Whether the model's API takes images in tool messages. User messages work everywhere."""
    return eyes_of(model, warn=False).tool_images == "tool message"


def reads_of(model: object, *, from_tools: bool = False) -> frozenset[str]:
    """What the model reads beside text and images: "pdf", "audio", "video", and "other", blocks of its provider's own.

    A model that reads references reads nothing else. For others their profile says it.

    Args:
        model: The model. Of a runnable around chat models: what each of them reads.
        from_tools: Whether the blocks stand in tool messages.
    """
    inside = chat_models(model) if isinstance(model, Runnable) else []
    if inside and inside != [model]:
        return frozenset.intersection(*(reads_of(each, from_tools=from_tools) for each in inside))
    if reads_references(model):
        return frozenset()
    profile = getattr(model, "profile", None)
    known = profile if isinstance(profile, Mapping) else {}
    keys = {"pdf": "pdf_tool_message" if from_tools else "pdf_inputs", "audio": "audio_inputs", "video": "video_inputs"}
    return frozenset({"other", *(kind for kind, key in keys.items() if known.get(key))})


def can_be_forbidden(model: BaseChatModel, tools: Sequence[Any]) -> bool:
    """Whether the model knows the tool choice "none". Some take it for a tool's name, and their servers refuse it.

    Args:
        model: The model.
        tools: The tools that it would be given.
    """
    try:
        choice = getattr(model.bind_tools(tools, tool_choice="none"), "kwargs", {}).get("tool_choice")
    except Exception:  # each package raises its own; a model without bind_tools is reported when tools are bound
        return False
    if not isinstance(choice, Mapping):
        return True
    function = choice.get("function")
    return "none" not in (choice.get("name"), function.get("name") if isinstance(function, Mapping) else None)


def zoom_bias_options(model: BaseChatModel, bias: float, token_id: int | None) -> dict[str, Any]:
    """The options of a call that add a bias to the log-odds of zooming.

    Args:
        model: The model.
        bias: What is added, in nats. `ChatVLM` adds it at the decision alone; other models get a `logit_bias`, which
            acts on every token, so that a large positive one spoils the reply.
        token_id: The id of the model's `<tool_call>` token; not needed for a model that reads references.

    Raises:
        ModelError: The model has no option `zoom_bias`, and `token_id` is None.
    """
    if reads_references(model):
        return {"zoom_bias": bias}
    if token_id is None:
        raise ModelError(
            f"{type(model).__name__} takes no zoom_bias; give the id of its <tool_call> token as zoom_token_id, and it "
            "gets a logit_bias"
        )
    return {"logit_bias": {str(token_id): bias}}
