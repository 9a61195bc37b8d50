"""Verdicts on disk: asked once, the same ever after, shared by all processes that open the folder.

Each process appends to a file of its own and reads everyone's, so no locks are needed and a process that dies in
mid-line spoils that line alone. The lines hold what was judged, to be read by people, too.
"""

from __future__ import annotations

import json
import time
import uuid
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

from vtagent.errors import DataError

_LOOK_AGAIN = 1.0  # seconds between two looks at what other processes have written


class VerdictCache:
    """Right or wrong, by key.

    Args:
        folder: Made if missing.

    Raises:
        DataError: The folder cannot be made or read.

    Attributes:
        damaged: Lines that could not be read, and were left out.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damaged = 0
        self._lock = Lock()
        self._known: dict[str, bool] = {}
        self._read: dict[Path, int] = {}
        self._own = folder / f"{time.time_ns()}-{uuid.uuid4().hex[:8]}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._refresh()
        except OSError as error:
            raise DataError(f"judge cache {folder}: {error.strerror}") from error
        self._looked = time.monotonic()

    def get(self, key: str) -> bool | None:
        """The verdict under this key, another process's from a moment ago included; None if there is none."""
        with self._lock:
            if key not in self._known and time.monotonic() - self._looked >= _LOOK_AGAIN:
                self._refresh()
                self._looked = time.monotonic()
            return self._known.get(key)

    def put(self, key: str, right: bool, **about: Any) -> None:
        """Keep a verdict, with what it is about. A disk that is full or gone costs the cache, not the verdict."""
        line = json.dumps({"key": key, "right": right, **about}, ensure_ascii=True) + "\n"
        with self._lock:
            self._known[key] = right
            with suppress(OSError), self._own.open("ab") as file:
                file.write(line.encode())

    def _refresh(self) -> None:
        """Read what was appended since the last look; an unfinished last line is left for the next."""
        for path in sorted(self.folder.glob("*.jsonl")):
            start = self._read.get(path, 0)
            if path == self._own or path.stat().st_size <= start:
                continue
            with path.open("rb") as file:
                file.seek(start)
                text = file.read()
            whole = text.rfind(b"\n") + 1
            self._read[path] = start + whole
            for line in text[:whole].splitlines():
                self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            row = json.loads(line)
            key, right = row["key"], row["right"]
        except (ValueError, KeyError, TypeError):
            self.damaged += 1
            return
        if isinstance(key, str) and isinstance(right, bool):
            self._known.setdefault(key, right)
        else:
            self.damaged += 1
