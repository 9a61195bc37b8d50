"""Keeps libtiff from printing its warnings and errors on stderr; Pillow reports failures as exceptions anyway."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import PIL

__all__ = ["silence"]


@cache
def silence() -> None:
    """Takes the message handlers from the libtiff that Pillow has loaded.

    Pillow has no setting for it, and redirecting stderr would affect all threads. Where the library is not found, as in
    a Pillow that is linked statically, nothing changes.
    """
    for path in _candidates():
        try:
            library = ctypes.CDLL(str(path))
            for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
                setter = getattr(library, name)
                setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
                setter(None)
        except (OSError, AttributeError):
            continue


def _candidates() -> list[Path]:
    """Returns the libtiff files that Pillow may have loaded: those of its wheel, and those of this process."""
    package = Path(PIL.__file__).parent
    found = [*package.parent.glob("pillow.libs/libtiff*"), *package.glob(".dylibs/libtiff*")]
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        maps = []
    found += sorted({Path(line.split(None, 5)[5]) for line in maps if "/libtiff" in line})
    return found
