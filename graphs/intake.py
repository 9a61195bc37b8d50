"""Earlier pictures that cannot be used: a note in their place, so that one bad upload does not end a thread for good.

The run to which a bad picture was sent fails with a clear error, and a checkpointer may have kept the message by then.
"""

from __future__ import annotations

from typing import Any

from langchain_core.messages import BaseMessage

from vtagent.errors import ImageError
from vtagent.graphs.observe import Fetch, take_in
from vtagent.images import ImageStore

__all__ = ["noted"]


def noted(message: BaseMessage, store: ImageStore, fetch: Fetch | None) -> BaseMessage:
    """The message, with a note in place of each picture that cannot be used; itself where all can be.

    Args:
        message: Of the earlier part of a conversation. Never modified.
        store: Where pictures would go.
        fetch: As for `ingest`.
    """
    try:
        take_in([message], store, fetch)
    except ImageError:
        content = [_note(message, block, store, fetch) for block in message.content]
        return message.model_copy(update={"content": content})
    return message


def _note(message: BaseMessage, block: Any, store: ImageStore, fetch: Fetch | None) -> Any:
    try:
        take_in([message.model_copy(update={"content": [block]})], store, fetch)
    except ImageError as error:
        why = str(error).partition(": ")[2]  # without the message's position
        return {"type": "text", "text": f"[There was a picture here that could not be used: {why}]"}
    return block
