"""What keeps a run's conversation, and a warning where that lasts longer than its images."""

from __future__ import annotations

import warnings
from typing import Any
from weakref import WeakSet

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver

from vtagent.images import ImageStore

_CHECKPOINTER = "__pregel_checkpointer"  # where LangGraph keeps it in the config of a node

_warned: WeakSet[ImageStore] = WeakSet()


def checkpointer_of(config: RunnableConfig) -> BaseCheckpointSaver[Any] | None:
    """The checkpointer of a run, from the config of one of its nodes; None if there is none."""
    found = config.get("configurable", {}).get(_CHECKPOINTER)
    return found if isinstance(found, BaseCheckpointSaver) else None


def warn_if_images_are_lost(store: ImageStore) -> None:
    """Warn once for each image store in memory whose images a checkpointer outlives.

    Called in a node, whose config names the checkpointer.

    Args:
        store: The image store of the agent.
    """
    if not store.in_memory or store in _warned:
        return
    checkpointer = checkpointer_of(ensure_config())
    if checkpointer is None or isinstance(checkpointer, InMemorySaver):
        return
    _warned.add(store)
    warnings.warn(
        f"{type(checkpointer).__name__} keeps conversations, but their images are in this process's memory and are "
        'lost when it ends: give the agent a store that stays, such as DirectoryImageStore("images")',
        stacklevel=2,
    )
