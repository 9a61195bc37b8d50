"""The folders that an MCP server may read: names of images in, files out, and nothing outside of the folders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from vtagent.errors import DataError, ImageError, ImageNotFound, ImageRefused
from vtagent.formats import IMAGE_SUFFIXES
from vtagent.images import ImageRef, ImageStore
from vtagent.store import read_regular

__all__ = ["Folders", "Listing"]

MOST_LISTED = 100
MOST_CHARACTERS = 10_000
MOST_VISITED = 50_000
"""Bounds of a listing: its lines, their characters together, and the files that are looked at for it."""


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
            if path.suffix.lower() in IMAGE_SUFFIXES and contains.lower() in name.lower() and name.isprintable():
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
            name: As `list_images` names it; a path in the only folder; or an absolute path inside a folder.
            store: Where to put it. An image that it holds already is not decoded again.

        Raises:
            ImageError: The name leads out of the folders, or the file is missing or no image that can be used.
        """
        path = self._inside(name)
        try:
            return store.put(read_regular(path, store.limits.max_bytes))
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
