"""`store.documents`: files of pages in an image store. The latest ones stay open; all others are opened on demand."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vtagent.errors import ImageNotFound, ImageTooLarge, UnreadableImage
from vtagent.limits import ImageLimits
from vtagent.names import ImageName
from vtagent.pages.source import PageSource
from vtagent.pages.words import PageText

if TYPE_CHECKING:
    from vtagent.store import ImageStore

__all__ = ["DocumentRef", "DocumentShelf", "is_document", "is_pdf", "open_source"]

_OPEN = 4
"""Documents that stay open."""


@dataclass(frozen=True)
class DocumentRef:
    """The name, length and type of a stored document.

    Attributes:
        sha256: Hash of the file's bytes.
        pages: Number of pages.
        mime_type: "application/pdf" or "image/tiff".
        damage: What is wrong with the file, if it could be read nevertheless.
    """

    sha256: str
    pages: int
    mime_type: str
    damage: str | None = None

    def page(self, number: int) -> str:
        """The id of a page, as `ImageStore.ref` takes it.

        Args:
            number: Counted from 1.
        """
        return str(ImageName(self.sha256, number))


def is_pdf(data: bytes) -> bool:
    """Returns whether bytes look like a PDF; some have a few bytes before their header."""
    return b"%PDF-" in data[:1024]


def is_document(data: bytes) -> bool:
    """Returns whether bytes look like a file of pages: a PDF, or a TIFF of any number of pages."""
    return is_pdf(data) or data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def open_source(data: bytes, limits: ImageLimits) -> PageSource:
    """Opens a file of pages.

    Args:
        data: The file.
        limits: Limits that it must meet.

    Raises:
        ModuleNotFoundError: It is a PDF, and the extra `docs` is not installed.
        UnreadableImage: It is neither a PDF nor a TIFF, or cannot be opened.
        ImageTooLarge: It exceeds the limits.
    """
    most = limits.documents.max_bytes
    if len(data) > most:
        raise ImageTooLarge(f"the document has {len(data)} bytes; at most {most} are allowed: split it")
    if is_pdf(data):
        from vtagent.pages.pdf_pages import PdfPages

        return PdfPages(data, limits)
    if is_document(data):
        from vtagent.pages.tiff_pages import TiffPages

        return TiffPages(data, limits)
    raise UnreadableImage(
        "the file is empty: 0 bytes" if not data else "neither a PDF nor a TIFF: an image needs no pages"
    )


class DocumentShelf:
    """The documents of a store. Threads may share it.

    Args:
        store: The store.
    """

    def __init__(self, store: ImageStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._open: OrderedDict[str, PageSource] = OrderedDict()

    def put(self, data: bytes) -> DocumentRef:
        """Stores a file of pages. No page is drawn.

        Args:
            data: The file.

        Returns:
            The reference to the document.

        Raises:
            ModuleNotFoundError: It is a PDF, and the extra `docs` is not installed.
            UnreadableImage: It is encrypted, corrupt, without pages, or neither a PDF nor a TIFF.
            ImageTooLarge: It has too many bytes or pages, or opening it costs too much.
        """
        data = bytes(data)
        sha256 = hashlib.sha256(data).hexdigest()
        if not self._store._touch(sha256):
            source = open_source(data, self._store.limits)
            self._store._write(sha256, data)
            self._keep(sha256, source)
        return self.ref(sha256)

    def put_file(self, path: str | os.PathLike[str]) -> DocumentRef:
        """Stores the document in a file. Use it for paths that the user gives, never for paths found in messages.

        Args:
            path: The file.

        Raises:
            ImageNotFound: There is no such file.
            ModuleNotFoundError, UnreadableImage, ImageTooLarge: As in `put`.
        """
        from vtagent.store import read_regular

        try:
            return self.put(read_regular(Path(path), self._store.limits.documents.max_bytes))
        except FileNotFoundError:
            raise ImageNotFound(f"no document at {os.fspath(path)!r}") from None

    def ref(self, sha256: str) -> DocumentRef:
        """Returns the reference to a stored document.

        Raises:
            ImageNotFound, ImageTampered: As in `ImageStore.get`.
            UnreadableImage, ImageTooLarge: As in `put`, if the limits have changed since.
        """
        source = self.source(sha256)
        return DocumentRef(sha256, source.count, source.mime_type, source.damage)

    def source(self, sha256: str) -> PageSource:
        """Returns an opened document.

        Raises:
            ImageNotFound, ImageTampered, UnreadableImage, ImageTooLarge: As in `ref`.
        """
        with self._lock:
            if (source := self._open.get(sha256)) is not None:
                self._open.move_to_end(sha256)
                if sha256 in self._store:
                    return source
        return self._keep(sha256, open_source(self._store.get(sha256), self._store.limits))

    def text(self, id: str) -> PageText:
        """Returns the text layer of a page of a document, turned as its id says.

        Args:
            id: The id of the page; of an image, which has no text layer, there are no words.

        Raises:
            ImageNotFound, ImageTampered, UnreadableImage, ImageTooLarge: As in `ImageStore.ref`.
        """
        name = ImageName.parse(id)
        if name.page is None:
            return PageText(())
        words = tuple(word.turned(name.turn) for word in self.source(name.sha256).words(name.page))
        return PageText(words, "text" if words else "none")

    def label(self, id: str) -> str:
        """Returns the printed number of a page of a document; "1" for an image.

        Args:
            id: The id of the page.

        Raises:
            ImageNotFound, ImageTampered, UnreadableImage, ImageTooLarge: As in `ImageStore.ref`.
        """
        name = ImageName.parse(id)
        return "1" if name.page is None else self.source(name.sha256).label(name.page)

    def forget(self, sha256: str) -> None:
        """Closes a document that the store no longer holds."""
        with self._lock:
            source = self._open.pop(sha256, None)
        if source is not None:
            source.close()

    def _keep(self, sha256: str, source: PageSource) -> PageSource:
        """Keeps an opened document, and closes the longest unused ones; a thread that uses one still can."""
        with self._lock:
            kept = self._open.setdefault(sha256, source)
            self._open.move_to_end(sha256)
            while len(self._open) > _OPEN:
                self._open.popitem(last=False)  # its process ends when its last user lets go of it
        return kept
