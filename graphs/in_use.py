"""Which images the threads of a checkpointer refer to, read from every checkpoint and every pending write.

With `vtagent.garbage.collect_garbage` this deletes what no thread refers to any more:

    collect_garbage(store, images_in_use(checkpointer))
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from vtagent.graphs.checkpoints import names_instead_of_pictures

__all__ = ["aimages_in_use", "images_in_use"]

_NAME = re.compile(rb"vtimg://sha256/([0-9a-f]{64})")

_plain = JsonPlusSerializer()


def images_in_use(*checkpointers: BaseCheckpointSaver[Any]) -> set[str]:
    """The ids of all images that any thread of any of these checkpointers refers to, at any point of its history.

    Args:
        checkpointers: All that share one image store; a checkpointer left out has its images collected.
    """
    found: set[str] = set()
    for checkpointer in checkpointers:
        with names_instead_of_pictures():
            found.update(_names(checkpointer.list(None)))
    return found


async def aimages_in_use(*checkpointers: BaseCheckpointSaver[Any]) -> set[str]:
    """As `images_in_use`, for checkpointers that are asynchronous only."""
    found: set[str] = set()
    for checkpointer in checkpointers:
        with names_instead_of_pictures():
            async for saved in checkpointer.alist(None):
                found.update(_names([saved]))
    return found


def _names(saved: Iterable[CheckpointTuple]) -> Iterable[str]:
    for checkpoint in saved:
        _, data = _plain.dumps_typed([checkpoint.checkpoint, checkpoint.metadata, checkpoint.pending_writes])
        yield from (name.decode("ascii") for name in _NAME.findall(data))
