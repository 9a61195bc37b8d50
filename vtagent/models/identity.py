"""What tells two checkpoints apart: LangChain's caches would else answer for one with the reply of the other."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path


def identity_of(path: str) -> str:
    """The identity of a checkpoint: where it is, and for a folder which files it holds.

    Weights are not read, since they may have gigabytes. A file counts by its name, size and time of change.

    Args:
        path: A folder, or a hub id.
    """
    folder = Path(path)
    if not folder.is_dir():
        return path
    files = sorted(file for file in folder.iterdir() if file.is_file())
    found = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return f"{folder.resolve()}@{sha256(repr(found).encode()).hexdigest()[:16]}"
