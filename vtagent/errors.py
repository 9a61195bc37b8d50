"""Every error that vtagent raises on purpose. Each message says in one line what is wrong and what to do instead.

VtagentError
├── ImageError            an image, or a reference to one, that cannot be used
│   ├── UnreadableImage   not an image, empty, truncated, animated, or a format that is not allowed
│   ├── ImageTooLarge     too many bytes or pixels, or too long and thin
│   ├── ImageNotFound     a reference to an image that the store does not hold
│   ├── ImageTampered     a stored image whose bytes no longer match its name
│   └── ImageRefused      a source that is not opened: a remote URL, a file path, an unknown scheme or block
├── RegionError           a region that is invalid, or that could mean two things
├── ModelError            a checkpoint or server that cannot be used, or that failed
├── DataError             a bad training or evaluation input file
└── SettingsError         training settings, or an installed library, that training cannot work with
"""

from __future__ import annotations

from typing import TypeVar

__all__ = [
    "DataError",
    "ImageError",
    "ImageNotFound",
    "ImageRefused",
    "ImageTampered",
    "ImageTooLarge",
    "ModelError",
    "RegionError",
    "SettingsError",
    "UnreadableImage",
    "VtagentError",
    "described",
    "named",
    "one_line",
]


class VtagentError(Exception):
    """Base class of all errors that vtagent raises on purpose."""


class ImageError(VtagentError):
    """An image, or a reference to one, that cannot be used."""


class UnreadableImage(ImageError):
    """The bytes are not one complete still image in an allowed format."""


class ImageTooLarge(ImageError):
    """The image has too many bytes or pixels, or is too long and thin."""


class ImageNotFound(ImageError):
    """The store does not hold the image that the reference names."""


class ImageTampered(ImageError):
    """The stored bytes no longer match the hash that names them."""


class ImageRefused(ImageError):
    """The image comes from a source that vtagent does not open."""


class RegionError(VtagentError):
    """The region is invalid, or it could mean two things. The message is written for the model to act on."""


class ModelError(VtagentError):
    """The checkpoint or server cannot be used, or failed."""


class DataError(VtagentError):
    """A training or evaluation input file is bad."""


class SettingsError(VtagentError):
    """Training cannot work with these settings or with an installed library."""


Failure = TypeVar("Failure", bound=VtagentError)


def named(error: Failure, path: str) -> Failure:
    """An error of a file with the file's name in front of its text, unless the text has it."""
    said = str(error)
    return type(error)(said if repr(path) in said else f"{path!r}: {said}")


def one_line(error: BaseException, *, limit: int = 300) -> str:
    """The text of an error on one line.

    Args:
        error: An error of any library.
        limit: Maximum number of characters.

    Returns:
        The text; the name of the error's class if it has none.
    """
    return " ".join(str(error).split())[:limit] or type(error).__name__


def described(error: BaseException) -> str:
    """The name of an error's class and the text of the error, on one line."""
    return f"{type(error).__name__}: {one_line(error)}"
