"""The image stores: in this process's memory, or in a folder that several processes share. See `vtagent.store`."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from vtagent.errors import ImageTooLarge
from vtagent.limits import ImageLimits
from vtagent.names import ImageName
from vtagent.pixels import decode
from vtagent.store import ImageRef, ImageStore, check_id, not_found, read_regular

__all__ = [
    "DirectoryImageStore",
    "ImageLimits",
    "ImageRef",
    "ImageStore",
    "MemoryImageStore",
    "check_id",
    "decode",
    "default_store",
]


class MemoryImageStore(ImageStore):
    """Keeps originals in this process's memory, for tests, notebooks and short-lived agents.

    The store is bounded. An image is used when it is put, read or looked up; each turn of a conversation does so for
    every image that it shows. Where a new image needs room, the longest unused images go: their conversations are idle,
    and one that goes on reads a note in place of the image. An image that was used within `grace` seconds never goes,
    since a run under way may need it. If all are as recent, the new image is refused, before anything refers to it. For
    conversations that must not lose an image, use `DirectoryImageStore`.

    Args:
        limits: Limits that an image must meet to be stored.
        kept_pixels: See `ImageStore`.
        max_bytes: Bytes of encoded images to hold; None for any number.
        grace: Seconds for which an image stays after its last use.
    """

    in_memory = True

    def __init__(
        self,
        *,
        limits: ImageLimits | None = None,
        kept_pixels: int = 2**28,
        max_bytes: int | None = 2**31,
        grace: float = 600.0,
    ) -> None:
        super().__init__(limits=limits, kept_pixels=kept_pixels)
        self.max_bytes = max_bytes
        self.grace = grace
        self._data: dict[str, bytes] = {}
        self._notes: dict[str, dict[str, bytes]] = {}
        self._used: dict[str, float] = {}  # id → seconds of the monotonic clock, the longest unused first
        self._lock = threading.Lock()

    def _holds(self, sha256: str) -> bool:
        return sha256 in self._data

    def ref(self, id: str) -> ImageRef:
        """Returns the reference to a stored image or page, and counts as a use of it; see `ImageStore.ref`."""
        self._touch(ImageName.parse(id).sha256)
        return super().ref(id)

    def note(self, sha256: str, kind: str) -> bytes | None:
        """See `ImageStore.note`."""
        return self._notes.get(sha256, {}).get(kind)

    def put_note(self, sha256: str, kind: str, data: bytes) -> None:
        """See `ImageStore.put_note`."""
        with self._lock:
            if sha256 in self._data:
                self._notes.setdefault(sha256, {})[kind] = data

    def delete_unused(self, in_use: Collection[str], *, unused_for: float, dry_run: bool = False) -> dict[str, int]:
        """Deletes the images that no conversation refers to; see `vtagent.garbage.collect_garbage`.

        Args:
            in_use: The ids of the images that stay.
            unused_for: Seconds; an image that was used since stays, too.
            dry_run: Whether to delete nothing.

        Returns:
            The bytes of each deleted image, by id.
        """
        with self._lock:
            before = time.monotonic() - unused_for
            doomed = [name for name, used in self._used.items() if used <= before and name not in in_use]
            sizes = {name: len(self._data[name]) for name in doomed if name in self._data}
            if not dry_run:
                for name in doomed:
                    self._delete(name)
        return sizes

    def clear(self) -> None:
        """Deletes all images, in use or not."""
        with self._lock:
            for kept in (self._data, self._used, self._refs, self._notes):
                kept.clear()
        self._decoded.clear()

    def __iter__(self) -> Iterator[str]:
        """Iterates over the ids of all images, the longest unused first."""
        with self._lock:
            return iter([name for name in self._used if name in self._data])

    def _touch(self, sha256: str) -> bool:
        with self._lock:
            if sha256 not in self._data:
                return False
            self._used.pop(sha256, None)
            self._used[sha256] = time.monotonic()
            return True

    def _read(self, sha256: str) -> bytes:
        self._touch(sha256)
        try:
            return self._data[sha256]
        except KeyError:
            raise not_found(sha256) from None

    def _write(self, sha256: str, data: bytes) -> None:
        with self._lock:
            if sha256 not in self._data:
                self._make_room(len(data))
            self._data[sha256] = data
            self._used.pop(sha256, None)
            self._used[sha256] = time.monotonic()

    def _make_room(self, size: int) -> None:
        """Deletes the longest unused images until `size` bytes fit.

        Raises:
            ImageTooLarge: They do not, and all images were used within the grace period. Nothing is deleted then.
        """
        if self.max_bytes is None:
            return
        held = sum(map(len, self._data.values()))
        before = time.monotonic() - self.grace
        doomed = []
        for name, used in self._used.items():
            if held + size <= self.max_bytes or used > before:
                break
            doomed.append(name)
            held -= len(self._data.get(name, b""))
        if held + size > self.max_bytes:
            raise ImageTooLarge(
                f"the image store holds {held} bytes of images in use; with {size} more it would exceed "
                f"{self.max_bytes}: use a DirectoryImageStore, collect_garbage, or a larger max_bytes"
            )
        for name in doomed:
            self._delete(name)

    def _delete(self, sha256: str) -> None:
        for kept in (self._data, self._used, self._refs, self._notes):
            kept.pop(sha256, None)
        self.documents.forget(sha256)


_default: MemoryImageStore | None = None
_default_lock = threading.Lock()


def default_store() -> MemoryImageStore:
    """Returns the image store of this process: agents and models that are given no store share it.

    Two agents, or agents that are made for one request each, thereby see the same images.
    """
    global _default
    with _default_lock:
        if _default is None:
            _default = MemoryImageStore()
        return _default


class DirectoryImageStore(ImageStore):
    """Keeps originals as files <folder>/<first two digits>/<id>. Several processes may share the folder.

    Files appear by an atomic rename, so no reader sees a partial image, even after a crash. What was computed from an
    image stands in the folder <id>.notes beside it.

    Args:
        path: The folder; it is created if missing.
        limits: Limits that an image must meet to be stored.
        kept_pixels: See `ImageStore`.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, limits: ImageLimits | None = None, kept_pixels: int = 2**28
    ) -> None:
        super().__init__(limits=limits, kept_pixels=kept_pixels)
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)

    def _holds(self, sha256: str) -> bool:
        return self._file(sha256).exists()

    def _touch(self, sha256: str) -> bool:
        try:
            os.utime(self._file(sha256))
        except FileNotFoundError:
            return False
        return True

    def _file(self, sha256: str) -> Path:
        return self.path / sha256[:2] / sha256

    def note(self, sha256: str, kind: str) -> bytes | None:
        """See `ImageStore.note`."""
        try:
            return (notes_of(self._file(check_id(sha256))) / kind).read_bytes()
        except FileNotFoundError:
            return None

    def put_note(self, sha256: str, kind: str, data: bytes) -> None:
        """See `ImageStore.put_note`."""
        if check_id(sha256) in self:
            folder = notes_of(self._file(sha256))
            folder.mkdir(exist_ok=True)
            _write_whole(folder / kind, data)

    def _read(self, sha256: str) -> bytes:
        try:
            return read_regular(self._file(sha256), max(self.limits.max_bytes, self.limits.documents.max_bytes))
        except FileNotFoundError:
            raise not_found(sha256) from None

    def _write(self, sha256: str, data: bytes) -> None:
        file = self._file(sha256)
        file.parent.mkdir(exist_ok=True)
        _write_whole(file, data)


def notes_of(file: Path) -> Path:
    """The folder of what was computed from a file of a store."""
    return file.with_name(f"{file.name}.notes")


def _write_whole(file: Path, data: bytes) -> None:
    """Writes a file that no reader ever sees in part, even after a crash."""
    handle, part = tempfile.mkstemp(dir=file.parent, prefix=".part-")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, file)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
