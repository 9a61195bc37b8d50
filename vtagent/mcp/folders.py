"""The folders that an MCP server may read: names of images in, files out, and nothing outside of the folders.

A page of a document is named `<document>#page=3` and is an image like any other.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from vtagent.errors import DataError, ImageError, ImageNotFound, ImageRefused
from vtagent.formats import IMAGE_SUFFIXES
from vtagent.images import ImageRef, ImageStore
from vtagent.pages.library import DocumentRecord, record_of
from vtagent.pages.shelf import is_pdf
from vtagent.store import read_regular

__all__ = ["Folders", "Listing"]

T = TypeVar("T")

MOST_LISTED = 100
MOST_CHARACTERS = 10_000
MOST_VISITED = 50_000
"""Bounds of a listing: its lines, their characters together, and the files that are looked at for it."""


_PAGE = re.compile(r"(.+)#page=([1-9][0-9]{0,5})", re.DOTALL)
_SUFFIXES = IMAGE_SUFFIXES | {".pdf"}


@dataclass(frozen=True)
class Listing:
    """Images found in the folders.

    Attributes:
        images: Name and size in bytes of each, sorted by name.
        more: How many more there are.
        complete: Whether all files were looked at.
    """

    images: tuple[tuple[str, int], ...]
    more: int
    complete: bool


class Folders:
    """Names images as `<folder>/<path in it>`. Links that lead out of the folders are refused.

    Args:
        roots: The folders.

    Raises:
        DataError: None is given, or one is not a folder.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        if not roots:
            raise DataError("name at least one folder whose images may be read: --root DIR")
        self.roots: dict[str, Path] = {}
        for root in roots:
            resolved = root.expanduser().resolve()
            if not resolved.is_dir():
                raise DataError(f"--root {root}: not a folder")
            if resolved in self.roots.values():
                continue
            name, number = resolved.name or "files", 1
            while name in self.roots:
                number += 1
                name = f"{resolved.name or 'files'}-{number}"
            self.roots[name] = resolved

    def list_images(self, folder: str = "", contains: str = "") -> Listing:
        """Returns the images in the folders and below, by the endings of their names. Hidden files are left out.

        Args:
            folder: Only below this folder, named as images are.
            contains: Only names that contain this, in any case.

        Raises:
            ImageError: There is no such folder.
        """
        starts = [self._inside(folder)] if folder.strip("/ ") else list(self.roots.values())
        for start in starts:
            if not start.is_dir():
                raise ImageNotFound(f"there is no folder {folder!r:.200}; {self._known()}")
        visited, found = 0, []
        for path in islice((path for start in starts for path in _files(start)), MOST_VISITED):
            visited += 1
            name = self._name(path)
            if path.suffix.lower() in _SUFFIXES and contains.lower() in name.lower() and name.isprintable():
                found.append((name, path))
        found.sort()
        shown, characters = [], 0
        for name, path in found[:MOST_LISTED]:
            characters += len(name)
            if characters > MOST_CHARACTERS:
                break
            shown.append((name, path.stat(follow_symlinks=False).st_size))
        return Listing(tuple(shown), len(found) - len(shown), visited < MOST_VISITED)

    def put(self, name: str, store: ImageStore) -> ImageRef:
        """Reads an image into a store.

        Args:
            name: As `list_images` names it; a path in the only folder; or an absolute path inside a folder. With
                "#page=3" behind it, a page of a document.
            store: Where to put it. An image that it holds already is not decoded again.

        Raises:
            ImageError: The name leads out of the folders, or the file is missing or no image that can be used.
        """
        page = _PAGE.fullmatch(name)
        if page is None:
            return self._read(name, lambda data: self._image(name, data, store), store)
        number = int(page[2])
        return self._read(page[1], lambda data: store.ref(store.documents.put(data).page(number)), store)

    def document(self, name: str, store: ImageStore) -> DocumentRecord:
        """Reads a document into a store; an image counts as a document of one page.

        Args:
            name: As for `put`, without a page.
            store: Where to put it.

        Raises:
            ImageError: As `put`.
        """
        return self._read(name, lambda data: record_of(name, data, store), store)

    def _image(self, name: str, data: bytes, store: ImageStore) -> ImageRef:
        """An image, or the only page of a PDF."""
        if not is_pdf(data):
            return store.put(data)
        document = store.documents.put(data)
        if document.pages > 1:
            raise ImageRefused(f"it has {document.pages} pages: name one, such as {f'{name}#page=1'!r:.200}")
        return store.ref(document.page(1))

    def _read(self, name: str, take: Callable[[bytes], T], store: ImageStore) -> T:
        """What `take` makes of a file; its errors name the file as the client did."""
        path = self._inside(name)
        try:
            is_small = path.suffix.lower() in IMAGE_SUFFIXES
            limits = store.limits
            return take(read_regular(path, limits.max_bytes if is_small else limits.documents.max_bytes))
        except (FileNotFoundError, NotADirectoryError):
            raise ImageNotFound(f"there is no image {name!r:.200}; {self._known()}") from None
        except OSError as error:
            raise ImageNotFound(f"{name!r:.200} cannot be read: {error.strerror}") from None
        except ImageError as error:
            text = str(error).replace(repr(str(path)), "the file")
            raise type(error)(f"{name!r:.200}: {text}") from error

    def _inside(self, name: str) -> Path:
        """The resolved path that a name means.

        Raises:
            ImageRefused: It is outside of the folders. Whether there is such a file is not told.
        """
        given = Path(name)
        first = given.parts[0] if given.parts else ""
        if first in self.roots:
            candidate = self.roots[first].joinpath(*given.parts[1:])
        elif given.is_absolute():
            candidate = given
        else:
            candidate = next(iter(self.roots.values())) / given if len(self.roots) == 1 else Path("/") / given
        try:
            resolved = candidate.resolve()
        except (OSError, ValueError, RuntimeError):  # too long, a zero byte, links in a circle
            raise ImageRefused(f"{name!r:.200} is not a path; {self._known()}") from None
        if not any(resolved.is_relative_to(root) for root in self.roots.values()):
            raise ImageRefused(f"{name!r:.200} is not in a folder that may be read; {self._known()}")
        return resolved

    def _name(self, path: Path) -> str:
        name, root = next((name, root) for name, root in self.roots.items() if path.is_relative_to(root))
        return "/".join((name, *path.relative_to(root).parts))

    def _known(self) -> str:
        return f"list_images shows what is in {', '.join(self.roots)}"


def _files(start: Path) -> Iterator[Path]:
    """The plain files below a folder, hidden ones and links left out, folder by folder in the order of their names."""
    for folder, folders, files in os.walk(start):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(folder, name)
            if not name.startswith(".") and path.is_file() and not path.is_symlink():
                yield path
