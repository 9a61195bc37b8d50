"""Deletes images that no conversation refers to from a store, while other threads and processes add images to it.

The caller says which images are in use; `vtagent.graphs.images_in_use` reads them from checkpointers. An image that was
put, or put again, within the grace period always stays, since its conversation may not be saved yet. The grace period
must therefore be longer than the longest run.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from vtagent.images import DirectoryImageStore, MemoryImageStore

__all__ = ["Collected", "collect_garbage"]

DAY = 86_400.0

_IMAGE = re.compile(r"[0-9a-f]{64}")
_LEFTOVER = re.compile(r"\.(part-.+|doomed-[0-9a-f]{64})")
"""Files that a killed process leaves behind: a partial image, or an image that was about to be deleted."""


@dataclass(frozen=True)
class Collected:
    """The result of a collection."""

    deleted: tuple[str, ...]
    """Ids of the deleted images; in a dry run, of those to delete."""
    freed: int
    """Bytes that the deleted images took."""
    in_use: int
    """Number of images that are in use."""
    recent: int
    """Number of unused images that stay because they were put within the grace period."""


def collect_garbage(
    store: DirectoryImageStore | MemoryImageStore,
    in_use: Collection[str],
    *,
    grace: float = DAY,
    dry_run: bool = False,
) -> Collected:
    """Deletes the images that are neither in use nor recent, and old leftovers of killed processes.

    Args:
        store: The store. Other processes may read a folder and put images into it meanwhile.
        in_use: The ids of all images that a conversation refers to, read just before the call.
        grace: Seconds for which an image stays after it was last put, even if it is unused; in memory, after it was
            last put or read.
        dry_run: Whether to delete nothing and only report what would be deleted.

    Returns:
        What was deleted and what stays.

    Raises:
        ValueError: `grace` is negative.
    """
    if grace < 0:
        raise ValueError(f"grace must not be negative, not {grace}")
    if isinstance(store, MemoryImageStore):
        held = set(store)
        sizes = store.delete_unused(in_use, unused_for=grace, dry_run=dry_run)
        used = len(held.intersection(in_use))
        return Collected(tuple(sizes), sum(sizes.values()), used, len(held) - used - len(sizes))
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
    if not dry_run:
        for notes in store.path.glob("[0-9a-f][0-9a-f]/*.notes"):
            if not notes.with_suffix("").exists():
                shutil.rmtree(notes, ignore_errors=True)
    return Collected(tuple(deleted), freed, used, recent)


def _files(folder: Path) -> Iterator[Path]:
    """Yields the images and leftovers in a store's folder; files of any other name are not the store's."""
    for shelf in sorted(folder.glob("[0-9a-f][0-9a-f]")):
        for file in sorted(shelf.iterdir()):
            if _LEFTOVER.fullmatch(file.name) or (_IMAGE.fullmatch(file.name) and file.name.startswith(shelf.name)):
                yield file


def _delete(file: Path, before: float) -> int:
    """Deletes an image unless it was put after `before`, and returns the bytes freed; 0 if it stays."""
    # Rename first: a later `put` then writes the image anew. Restore it if the mtime changed since the check.
    doomed = file.with_name(f".doomed-{file.name}")
    try:
        os.replace(file, doomed)
        if not _older(doomed, before):
            os.replace(doomed, file)
            return 0
        size = _size(doomed)
        doomed.unlink()
    except FileNotFoundError:  # another collection has deleted it
        return 0
    return size


def _older(file: Path, moment: float) -> bool:
    """Returns whether a file was last put before `moment`, in seconds since the epoch; False if it is gone."""
    try:
        return file.stat().st_mtime < moment
    except FileNotFoundError:
        return False


def _size(file: Path) -> int:
    """Returns the size of a file, in bytes."""
    return file.stat().st_size
