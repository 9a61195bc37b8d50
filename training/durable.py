"""Files that survive a crash: written whole or not at all, appended line by line, claimed by settings or a process."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vtagent.errors import DataError

SETTINGS = "settings.json"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file beside `path`, flush it to disk, and rename it, so that no reader or crash meets half of it.

    Args:
        path: The file to make or to replace; its folder exists.

    Yields:
        Where to write. The name is this process's own, so processes may replace one file at the same time.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_whole(path: Path, data: str | bytes) -> None:
    """Write a file whole or not at all.

    Args:
        path: The file to make or to replace; its folder exists.
        data: Its contents; text is encoded as UTF-8.

    Raises:
        OSError: The file cannot be written.
    """
    with replacing(path) as part:
        part.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)


def read_whole_lines(path: Path) -> list[bytes]:
    """The lines of a file without their line ends; a last line that is not complete is left out.

    Args:
        path: A file that this or another process may be appending to. No file counts as an empty one.

    Raises:
        OSError: The file cannot be read.
    """
    if not path.exists():
        return []
    return path.read_bytes().split(b"\n")[:-1]


def cut_to_whole_lines(path: Path) -> None:
    """Cut off a last line that is not complete, so that the next one starts on its own.

    Args:
        path: A file that only this process appends to. No file is left as it is.

    Raises:
        OSError: The file cannot be read or cut.
    """
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)


def claim(folder: Path, settings: Mapping[str, Any], *, what: str) -> dict[str, Any]:
    """Make a folder belong to these settings, which are kept in its settings.json.

    Args:
        folder: An existing folder.
        settings: All that decides what is written there.
        what: What the folder holds, for the error, such as "evaluation".

    Returns:
        The settings as JSON gives them back.

    Raises:
        DataError: The folder belongs to other settings, or its settings.json cannot be read.
        OSError: The settings cannot be written.
    """
    path = folder / SETTINGS
    now: dict[str, Any] = json.loads(json.dumps(settings))
    if not path.exists():
        write_whole(path, json.dumps(now, indent=1) + "\n")
        return now
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON; remove the folder or name another --out") from error
    for name in {**known, **now}:
        if known.get(name) != now.get(name):
            raise DataError(
                f"{folder} holds another {what} ({name}: {known.get(name)!r} there, {now.get(name)!r} here); "
                "name another --out"
            )
    return now


@contextmanager
def held(path: Path, *, wait: bool = False) -> Iterator[int | None]:
    """Hold the lock of a file, which is made if missing and stays. The lock ends with the process, however it ends.

    Args:
        path: The file; its folder exists.
        wait: Whether to wait for another process that holds the lock.

    Yields:
        A file descriptor: a child process that inherits it holds the lock, too. None: another process holds the lock.
    """
    file = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        yield None
        return
    try:
        yield file
    finally:
        os.close(file)


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Step and folder of each checkpoint of a run (`checkpoint-10` is that of step 10), in the order of steps."""
    found = [(path.name.rpartition("-")[2], path) for path in folder.glob("checkpoint-*") if path.is_dir()]
    return sorted((int(step), path) for step, path in found if step.isdigit())
