"""`ImageStore`: each original is kept under the sha256 of its bytes, and every read checks the bytes against it."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TypeGuard

from PIL import Image

from vtagent.caches import SharedCache
from vtagent.errors import ImageNotFound, ImageRefused, ImageTampered, ImageTooLarge, UnreadableImage
from vtagent.limits import ImageLimits
from vtagent.names import ImageName, name_at
from vtagent.pages.shelf import DocumentShelf
from vtagent.pixels import decode, inspect, is_drafted, turned

_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ImageRef:
    """The name, size and type of a stored original.

    Attributes:
        sha256: Hash of the encoded bytes, 64 lowercase hex digits.
        width: Width in pixels, after EXIF rotation.
        height: Height in pixels, after EXIF rotation.
        mime_type: Type of the bytes, such as "image/jpeg". It is detected; the sender's claim is ignored.
        page: Number of the page, counted from 1, in a file of pages; None if the file is one image.
        turn: Degrees by which it is turned clockwise to stand upright: 0, 90, 180 or 270. Width and height are those
            of the upright image.
    """

    sha256: str
    width: int
    height: int
    mime_type: str
    page: int | None = None
    turn: int = 0

    def __post_init__(self) -> None:
        check_id(self.sha256)

    @cached_property
    def id(self) -> str:
        """What tells it from other images: the hash, with the page and the turn where they are needed."""
        return str(ImageName(self.sha256, self.page, self.turn))

    @property
    def url(self) -> str:
        """The reference that messages carry in place of pixels: vtimg://sha256/<hex>, ?page=3 of a document."""
        return f"vtimg://sha256/{self.id}"


def is_id(sha256: object) -> TypeGuard[str]:
    """Returns whether `sha256` is a well-formed id: 64 lowercase hex digits."""
    return isinstance(sha256, str) and _HEX.fullmatch(sha256) is not None


def check_id(sha256: str) -> str:
    """Returns `sha256` if it is well-formed. It becomes a file name, so the check is strict.

    Raises:
        ImageRefused: It is not 64 lowercase hex digits; it could be a path that leaves the store's folder.
    """
    if not is_id(sha256):
        raise ImageRefused(f"not an image id: {sha256!r:.80}; expected 64 lowercase hex digits")
    return sha256


class ImageStore(ABC):
    """A content-addressed store of originals. Threads may share it.

    `get` returns exactly the bytes that were put, or raises. Subclasses implement `_read`, `_write` and `_holds`.
    `ref` and `pixels` take the id of an image or of a page of a document; `documents` takes files of pages.

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
        self.documents = DocumentShelf(self)

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
            data = read_regular(Path(path), self.limits.max_bytes)
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

    def ref(self, id: str) -> ImageRef:
        """Returns the reference to a stored image, or to a page of a stored document.

        Args:
            id: The hash of the file, with ?page=3 and turn=90 as needed; see `vtagent.names`.

        Raises:
            ImageRefused: It is not a well-formed id.
            ImageNotFound: The store does not hold the file, or the document has no such page.
            ImageTampered: As in `get`.
            UnreadableImage, ImageTooLarge: The page cannot be used.
        """
        name = ImageName.parse(id)
        if id not in self._refs:
            mime_type, width, height = self._inspected(name)
            if name.turn in (90, 270):
                width, height = height, width
            self._refs[id] = ImageRef(name.sha256, width, height, mime_type, name.page, name.turn)
        elif name.sha256 not in self:
            raise not_found(name.sha256)
        return self._refs[id]

    def _inspected(self, name: ImageName) -> tuple[str, int, int]:
        """Returns (mime type, width, height) of an image or a page before it is turned."""
        if name.page is None:
            return inspect(self.get(name.sha256), limits=self.limits)
        source = self.documents.source(name.sha256)
        return (source.mime_type, *source.size(name.page))

    def pixels(self, id: str, *, size_hint: tuple[int, int] | None = None) -> Image.Image:
        """Returns the decoded original: upright and RGB. The latest ones are kept.

        Args:
            id: The id of the image or page; of a page that has no pixels of its own, the whole page in full is drawn.
            size_hint: See `vtagent.pixels.decode`. A JPEG that it reduces is decoded anew and not kept.

        Returns:
            The pixels. They are shared: the caller must not change them.

        Raises:
            ImageRefused, ImageNotFound, ImageTampered: As in `get`.
            UnreadableImage, ImageTooLarge: As in `put`, if the limits have changed since.
        """
        name = ImageName.parse(id)
        if name.page is not None:
            ref = self.ref(id)
            return self.part(id, (0, 0, ref.width, ref.height), (ref.width, ref.height))
        data = self.get(name.sha256)
        if size_hint is not None and is_drafted(data, limits=self.limits):
            hint = size_hint[::-1] if name.turn in (90, 270) else size_hint
            return turned(decode(data, limits=self.limits, size_hint=hint), name.turn)
        return turned(self._pixels(self.ref(name.sha256), data), name.turn)

    def part(self, id: str, box: tuple[int, int, int, int], size: tuple[int, int]) -> Image.Image:
        """Returns a part of a page as an RGB image; of a PDF, it is drawn at the size that is asked for.

        Args:
            id: The id of the page.
            box: (left, top, right, bottom) in pixels of the upright page, as `ref` gives its size.
            size: (width, height) of the result in pixels.

        Raises:
            ImageRefused, ImageNotFound, ImageTampered, UnreadableImage, ImageTooLarge: As in `ref`.
        """
        name = ImageName.parse(id)
        if name.page is None:
            return self.pixels(id).crop(box).resize(size, Image.Resampling.BICUBIC)
        source = self.documents.source(name.sha256)
        return source.render(name.page, box, size, turn=name.turn)

    def _pixels(self, ref: ImageRef, data: bytes) -> Image.Image:
        """Returns the decoded original, whose bytes are at hand."""
        make = partial(decode, data, limits=self.limits)
        return self._decoded.get(ref.sha256, make, expected=4 * ref.width * ref.height)

    def __contains__(self, id: object) -> bool:
        """Returns whether the store holds the file of this image or page; False for anything that is not an id."""
        name = name_at(id)
        return name is not None and self._holds(name.sha256)

    def note(self, sha256: str, kind: str) -> bytes | None:
        """Returns what `put_note` has put beside a file; None if there is nothing, or the store keeps no notes.

        Args:
            sha256: The hash of the file.
            kind: What is asked for: letters, digits, "-", "_" and ".".
        """
        return None

    def put_note(self, sha256: str, kind: str, data: bytes) -> None:  # noqa: B027 (a store may keep none)
        """Keeps something that was computed from a file, such as the text that was recognised on a page, beside it.

        It goes when the file goes. A store that keeps no notes does nothing: they can be computed again.

        Args:
            sha256: The hash of the file.
            kind: As for `note`.
            data: What is kept. It replaces an earlier note of the same kind.
        """

    def _touch(self, sha256: str) -> bool:
        """Returns whether the store holds an image, and marks it as put just now (see `vtagent.garbage`)."""
        return sha256 in self

    @abstractmethod
    def _holds(self, sha256: str) -> bool:
        """Returns whether the store holds the file with this hash, which is well-formed."""

    @abstractmethod
    def _read(self, sha256: str) -> bytes:
        """Returns the bytes under a well-formed id.

        Raises:
            ImageNotFound: The store does not hold them.
        """

    @abstractmethod
    def _write(self, sha256: str, data: bytes) -> None:
        """Stores checked bytes under their id. A write that fails leaves nothing behind."""


def read_regular(path: Path, max_bytes: int) -> bytes:
    """Returns the bytes of a regular file. A pipe or device could block or never end.

    Args:
        path: The file.
        max_bytes: Its largest size.

    Raises:
        UnreadableImage: It is not a regular file.
        ImageTooLarge: It is larger.
        OSError: It cannot be read.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise UnreadableImage(f"{str(path)!r} is not a plain file")
    if found.st_size > max_bytes:
        raise ImageTooLarge(f"{str(path)!r} has {found.st_size} bytes; at most {max_bytes} are allowed")
    return path.read_bytes()


def not_found(sha256: str) -> ImageNotFound:
    """Returns the error for an image that a store does not hold."""
    return ImageNotFound(f"image {sha256} is not in this store")


def _weight(image: Image.Image) -> int:
    """Returns the size of an RGB image in memory, in bytes."""
    return 4 * image.width * image.height
