"""The names of stored images: the hash of a file, with a page and a quarter turn where they are needed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from vtagent.errors import ImageRefused

__all__ = ["ImageName", "name_at"]

_NAME = re.compile(r"([0-9a-f]{64})(?:\?(?:page=([1-9][0-9]{0,5}))?&?(?:turn=(90|180|270))?)?")


@dataclass(frozen=True)
class ImageName:
    """What names an image: equal names show equal pixels.

    Attributes:
        sha256: Hash of the file's bytes, 64 lowercase hex digits.
        page: Number of the page, counted from 1; None if the file is one image.
        turn: Degrees by which the page as stored is turned clockwise to stand upright: 0, 90, 180 or 270.
    """

    sha256: str
    page: int | None = None
    turn: int = 0

    def __str__(self) -> str:
        query = [] if self.page is None else [f"page={self.page}"]
        if self.turn:
            query.append(f"turn={self.turn}")
        return self.sha256 + ("?" + "&".join(query) if query else "")

    @staticmethod
    def parse(name: str) -> ImageName:
        """Parses a name that is written exactly as `str` of it writes it.

        Raises:
            ImageRefused: It is written in any other way. It could be a path that leaves the store's folder.
        """
        return _parsed(name)


@lru_cache(maxsize=4096)  # every node of a graph asks for the same few names
def _parsed(name: str) -> ImageName:
    if match := _NAME.fullmatch(name):
        sha256, page, turn = match.groups()
        parsed = ImageName(sha256, int(page) if page else None, int(turn or 0))
        if str(parsed) == name:
            return parsed
    raise ImageRefused(
        f"not an image id: {name!r:.100}; expected 64 lowercase hex digits, ?page=3 and turn=90 as needed"
    )


def name_at(name: object) -> ImageName | None:
    """Returns a well-formed name in its parts; None for anything else."""
    if not isinstance(name, str):
        return None
    try:
        return _parsed(name)
    except ImageRefused:
        return None
