"""Deletes originals that nobody refers to any more from a store's folder, while others go on putting images into it.

What is in use only the owner of the conversations knows; `vtagent.graphs.images_in_use` reads it from checkpointers.
An image that was put, or put again, within the grace period stays in any case: its conversation may not be saved yet.
So the grace must be longer than the longest run.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from vtagent.images import DirectoryImageStore

__all__ = ["Collected", "collect_garbage"]

DAY = 86_400.0

_IMAGE = re.compile(r"[0-9a-f]{64}")
_LEFTOVER = re.compile(r"\.(part-.+|doomed-[0-9a-f]{64})")
"""What a process that was killed leaves behind: half an image, or one about to be deleted."""


@dataclass(frozen=True)
class Collected:
    """What a collection came to."""

    deleted: tuple[str, ...]
    """The ids of the images that are gone."""
    freed: int
    """Bytes."""
    in_use: int
    """Images that something refers to."""
    recent: int
    """Images that nothing refers to, put within the grace period."""


def collect_garbage(
    store: DirectoryImageStore, in_use: Collection[str], *, grace: float = DAY, dry_run: bool = False
) -> Collected:
    """Delete the images that are neither in use nor recent.

    Args:
        store: The folder. Other processes may read it and put images into it meanwhile.
        in_use: The ids of all images that a conversation refers to, read just now.
        grace: Seconds for which an image stays after it was last put, whoever refers to it.
        dry_run: Delete nothing, only tell.

    Raises:
        ValueError: A negative grace.
    """
    if grace < 0:
        raise ValueError(f"grace must not be negative, not {grace}")
    before = time.time() - grace
    deleted, freed, used, recent = [], 0, 0, 0
    for file in _files(store.path):
        if _LEFTOVER.fullmatch(file.name):
            if _older(file, before) and not dry_run:
                file.unlink(missing_ok=True)
        elif file.name in in_use:
            used += 1
        elif not _older(file, before):
            recent += 1
        elif size := _size(file) if dry_run else _delete(file, before):
            deleted.append(file.name)
            freed += size
    return Collected(tuple(deleted), freed, used, recent)


def _files(folder: Path) -> Iterator[Path]:
    for shelf in sorted(folder.glob("[0-9a-f][0-9a-f]")):
        for file in sorted(shelf.iterdir()):
            if _LEFTOVER.fullmatch(file.name) or (_IMAGE.fullmatch(file.name) and file.name.startswith(shelf.name)):
                yield file


def _delete(file: Path, before: float) -> int:
    """Delete an image unless somebody puts it again at this moment; the bytes freed.

    Taken aside first: whoever wants it from now on writes it anew, and whoever wanted it since we looked has left a new
    time on it.
    """
    doomed = file.with_name(f".doomed-{file.name}")
    try:
        os.replace(file, doomed)
        if not _older(doomed, before):
            os.replace(doomed, file)
            return 0
        size = _size(doomed)
        doomed.unlink()
    except FileNotFoundError:  # another collection was faster
        return 0
    return size


def _older(file: Path, moment: float) -> bool:
    try:
        return file.stat().st_mtime < moment
    except FileNotFoundError:
        return False


def _size(file: Path) -> int:
    return file.stat().st_size
