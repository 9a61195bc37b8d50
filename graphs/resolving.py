"""`resolve`: puts pixels back into messages, for a model outside of the graph that is to read them."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import BaseMessage, convert_to_messages

from vtagent.eyes import Vision, eyes_of
from vtagent.graphs.intake import without_lost_images
from vtagent.graphs.model_call import after_tool_messages, with_open_calls_answered
from vtagent.images import ImageStore
from vtagent.models.capabilities import reads_references, takes_tool_images
from vtagent.models.pixel_model import Pixels
from vtagent.models.runnables import AnyModel, chat_models, resolved

__all__ = ["resolve"]


def resolve(
    messages: Any, store: ImageStore, model: AnyModel | str | None = None, *, vision: Vision | None = None
) -> list[BaseMessage]:
    """Put pixels back into messages that hold image references, for a model that cannot read those.

    The graph and the middleware leave references in `messages`. Their own model is given pixels; any other model that
    reads the same messages, such as the one of a later node, needs them from here.

    Args:
        messages: In any form that LangGraph takes. Never modified.
        store: Where the images are: `agent.builder.store` of a graph, `middleware.store`.
        model: The model that is to read the messages. It decides how large images are and where they may stand. Without
            it, images of tools stand in user messages, which every provider takes.
        vision: The image sizes that the model sees; by default those of `model`, else Qwen3-VL's.

    Returns:
        The messages with pixels. An image that the store no longer holds is a sentence, and so is an answer to a call
        that has none. Messages for a `ChatVLM`, which reads references, keep them. Calls stay calls: Claude wants the
        tools defined that earlier calls name, so bind them.

    Raises:
        ImageTampered: An image was changed in the store.

    Example:
        >>> from langchain_core.messages import HumanMessage
        >>> store = MemoryImageStore()
        >>> block = {"type": "image", "base64": png, "mime_type": "image/png"}
        >>> taken_out = referenced([HumanMessage([block])], store)
        >>> taken_out[0].content[0]["url"][:15], resolve(taken_out, store)[0].content[0]["image_url"]["url"][:15]
        ('vtimg://sha256/', 'data:image/png;')
    """
    listed = convert_to_messages(messages if isinstance(messages, list | tuple) else [messages])
    told = with_open_calls_answered(without_lost_images(listed, store))
    reader = None if model is None else resolved(model)
    models = [] if reader is None else chat_models(reader)
    if not (models and all(takes_tool_images(each) for each in models)):
        told = after_tool_messages(told)
    if models and all(reads_references(each) for each in models):
        return told
    eyes = eyes_of(models[0] if models else reader, override=vision, warn=reader is not None)
    return Pixels(store).put_into(told, eyes)
