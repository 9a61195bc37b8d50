"""Stores the judge's verdicts on disk, shared by all processes that open the folder.

Each process appends to a file of its own and reads the files of all. So no locks are needed, and a process that dies in
the middle of a line damages that line only. The lines also hold what was judged, so that people can read them.
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

_REFRESH_EVERY = 1.0
"""Seconds between two reads of what other processes have written."""


class VerdictCache:
    """Verdicts (right or wrong) by key.

    Args:
        folder: Folder of the verdicts; created if it is missing.

    Raises:
        DataError: The folder cannot be created or read.

    Attributes:
        damaged: The number of lines that were skipped because they cannot be read.
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
        """Return the verdict of a key, None if there is none. Other processes' verdicts appear after about a second."""
        with self._lock:
            if key not in self._known and time.monotonic() - self._looked >= _REFRESH_EVERY:
                self._refresh()
                self._looked = time.monotonic()
            return self._known.get(key)

    def put(self, key: str, right: bool, **about: Any) -> None:
        """Store a verdict. If the disk fails, the verdict is still kept in memory.

        Args:
            key: Key of the question.
            right: The verdict.
            about: What was judged, stored beside the verdict; values that JSON can hold.
        """
        line = json.dumps({"key": key, "right": right, **about}, ensure_ascii=True) + "\n"
        with self._lock:
            self._known[key] = right
            with suppress(OSError), self._own.open("ab") as file:
                file.write(line.encode())

    def _refresh(self) -> None:
        """Read what was appended since the last read. An incomplete last line is left for the next one."""
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
                self._add_line(line)

    def _add_line(self, line: bytes) -> None:
        try:
            row = json.loads(line)
            key, right = row["key"], row["right"]
            if not (isinstance(key, str) and isinstance(right, bool)):
                raise TypeError
        except (ValueError, KeyError, TypeError):
            self.damaged += 1
        else:
            self._known.setdefault(key, right)
