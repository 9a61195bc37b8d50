"""Image stores: each original is kept under the sha256 of its bytes, and every read checks the bytes against it."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from vtagent.caches import SharedCache
from vtagent.errors import ImageNotFound, ImageRefused, ImageTampered, ImageTooLarge, UnreadableImage
from vtagent.limits import ImageLimits
from vtagent.pixels import decode, inspect, is_drafted

__all__ = [
    "DirectoryImageStore",
    "ImageLimits",
    "ImageRef",
    "ImageStore",
    "MemoryImageStore",
    "decode",
    "default_store",
]

_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ImageRef:
    """The name, size and type of a stored original.

    Attributes:
        sha256: Hash of the encoded bytes, 64 lowercase hex digits.
        width: Width in pixels, after EXIF rotation.
        height: Height in pixels, after EXIF rotation.
        mime_type: Type of the bytes, such as "image/jpeg". It is detected; the sender's claim is ignored.
    """

    sha256: str
    width: int
    height: int
    mime_type: str

    def __post_init__(self) -> None:
        check_id(self.sha256)

    @property
    def url(self) -> str:
        """The reference that messages carry in place of pixels: vtimg://sha256/<hex>."""
        return f"vtimg://sha256/{self.sha256}"


def check_id(sha256: str) -> str:
    """Returns `sha256` if it is a well-formed id. An id becomes a file name, so the check is strict.

    Raises:
        ImageRefused: It is not 64 lowercase hex digits; it could be a path that leaves the store's folder.
    """
    if not isinstance(sha256, str) or not _HEX.fullmatch(sha256):
        raise ImageRefused(f"not an image id: {sha256!r:.80}; expected 64 lowercase hex digits")
    return sha256


class ImageStore(ABC):
    """A content-addressed store of originals. Threads may share it.

    `get` returns exactly the bytes that were put, or raises. Subclasses implement `_read`, `_write` and `__contains__`.

    Args:
        limits: Limits that an image must meet to be stored.
        kept_pixels: Bytes of decoded originals to keep, at 4 bytes per pixel. An image that was just put, or shown, is
            then not decoded again for the next view. The default holds one image of 64 million pixels.
    """

    in_memory: bool = False
    """Whether a look-up takes microseconds, so that an event loop may do it without a thread."""

    def __init__(self, *, limits: ImageLimits | None = None, kept_pixels: int = 2**28) -> None:
        self.limits = limits or ImageLimits()
        self._refs: dict[str, ImageRef] = {}
        self._decoded: SharedCache[str, Image.Image] = SharedCache(kept_pixels, _weight)

    def put(self, data: bytes) -> ImageRef:
        """Stores an encoded image. It is decoded once, to check that it is complete; putting it again is cheap.

        Args:
            data: The encoded file.

        Returns:
            The reference to the stored image.

        Raises:
            UnreadableImage: It is empty, truncated, animated, or not an image of an allowed format.
            ImageTooLarge: It exceeds the store's limits.
            ImageTampered: The store already holds other bytes under this image's name.
        """
        data = bytes(data)
        sha256 = hashlib.sha256(data).hexdigest()
        if self._touch(sha256):
            try:
                self.get(sha256)
                return self.ref(sha256)
            except ImageNotFound:  # a garbage collection has just deleted it
                pass
        mime_type, width, height = inspect(data, limits=self.limits)
        ref = ImageRef(sha256, width, height, mime_type)
        self._pixels(ref, data)
        self._write(sha256, data)
        return self._refs.setdefault(sha256, ref)

    def put_file(self, path: str | os.PathLike[str]) -> ImageRef:
        """Stores the image in a file. Use it for paths that the user gives, never for paths found in messages.

        Args:
            path: The image file.

        Returns:
            The reference to the stored image.

        Raises:
            ImageNotFound: There is no such file.
            UnreadableImage, ImageTooLarge, ImageTampered: As in `put`.
        """
        try:
            data = _read_regular(Path(path), self.limits.max_bytes)
        except FileNotFoundError:
            given = os.fspath(path)
            remote = re.match(r"(https?|ftp|s3|gs|data):", given)
            raise ImageNotFound(
                f"{remote[0]}… is not fetched: save the image to a file" if remote else f"no image file at {given!r}"
            ) from None
        return self.put(data)

    def get(self, sha256: str) -> bytes:
        """Returns the bytes of an original, checked against their hash.

        Raises:
            ImageRefused: `sha256` is not a well-formed id.
            ImageNotFound: The store does not hold the image.
            ImageTampered: The stored bytes have changed since they were put.
        """
        data = self._read(check_id(sha256))
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ImageTampered(
                f"image {sha256} was changed in the store: delete that entry and put the original again"
            )
        return data

    def ref(self, sha256: str) -> ImageRef:
        """Returns the reference to a stored image.

        Raises:
            ImageRefused, ImageNotFound, ImageTampered: As in `get`.
        """
        if check_id(sha256) not in self._refs:
            mime_type, width, height = inspect(self.get(sha256), limits=self.limits)
            self._refs[sha256] = ImageRef(sha256, width, height, mime_type)
        elif sha256 not in self:
            raise _not_found(sha256)
        return self._refs[sha256]

    def pixels(self, sha256: str, *, size_hint: tuple[int, int] | None = None) -> Image.Image:
        """Returns the decoded original: upright and RGB. The latest ones are kept.

        Args:
            sha256: The id of the image.
            size_hint: See `vtagent.pixels.decode`. A JPEG that it reduces is decoded anew and not kept.

        Returns:
            The pixels. They are shared: the caller must not change them.

        Raises:
            ImageRefused, ImageNotFound, ImageTampered: As in `get`.
            UnreadableImage, ImageTooLarge: As in `put`, if the limits have changed since.
        """
        data = self.get(sha256)
        if size_hint is not None and is_drafted(data, limits=self.limits):
            return decode(data, limits=self.limits, size_hint=size_hint)
        return self._pixels(self.ref(sha256), data)

    def _pixels(self, ref: ImageRef, data: bytes) -> Image.Image:
        """Returns the decoded original, whose bytes are at hand."""
        make = partial(decode, data, limits=self.limits)
        return self._decoded.get(ref.sha256, make, expected=4 * ref.width * ref.height)

    def _touch(self, sha256: str) -> bool:
        """Returns whether the store holds an image, and marks it as put just now (see `vtagent.garbage`)."""
        return sha256 in self

    @abstractmethod
    def __contains__(self, sha256: object) -> bool:
        """Returns whether the store holds an image of this id; False for anything that is not an id."""

    @abstractmethod
    def _read(self, sha256: str) -> bytes:
        """Returns the bytes under a well-formed id.

        Raises:
            ImageNotFound: The store does not hold them.
        """

    @abstractmethod
    def _write(self, sha256: str, data: bytes) -> None:
        """Stores checked bytes under their id. A write that fails leaves nothing behind."""


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
        self._used: dict[str, float] = {}  # id → seconds of the monotonic clock, the longest unused first
        self._lock = threading.Lock()

    def __contains__(self, sha256: object) -> bool:
        return sha256 in self._data

    def ref(self, sha256: str) -> ImageRef:
        """Returns the reference to a stored image, and counts as a use of it; see `ImageStore.ref`."""
        self._touch(sha256)
        return super().ref(sha256)

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
            for kept in (self._data, self._used, self._refs):
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
            raise _not_found(sha256) from None

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
        for kept in (self._data, self._used, self._refs):
            kept.pop(sha256, None)


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

    Files appear by an atomic rename, so no reader sees a partial image, even after a crash.

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

    def __contains__(self, sha256: object) -> bool:
        return isinstance(sha256, str) and _HEX.fullmatch(sha256) is not None and self._file(sha256).exists()

    def _touch(self, sha256: str) -> bool:
        try:
            os.utime(self._file(sha256))
        except FileNotFoundError:
            return False
        return True

    def _file(self, sha256: str) -> Path:
        return self.path / sha256[:2] / sha256

    def _read(self, sha256: str) -> bytes:
        try:
            return _read_regular(self._file(sha256), self.limits.max_bytes)
        except FileNotFoundError:
            raise _not_found(sha256) from None

    def _write(self, sha256: str, data: bytes) -> None:
        file = self._file(sha256)
        file.parent.mkdir(exist_ok=True)
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


def _read_regular(path: Path, max_bytes: int) -> bytes:
    """Returns the bytes of a regular file of at most `max_bytes`. A pipe or device could block or never end."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise UnreadableImage(f"{str(path)!r} is not a plain file")
    if found.st_size > max_bytes:
        raise ImageTooLarge(f"{str(path)!r} has {found.st_size} bytes; at most {max_bytes} are allowed")
    return path.read_bytes()


def _not_found(sha256: str) -> ImageNotFound:
    return ImageNotFound(f"image {sha256} is not in this store")


def _weight(image: Image.Image) -> int:
    """Returns the size of an RGB image in memory, in bytes."""
    return 4 * image.width * image.height
