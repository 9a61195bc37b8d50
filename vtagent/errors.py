"""Every error vtagent raises on purpose: what was wrong and what would be right, in one line.

VtagentError
├── ImageError            an image, or a reference to one, that cannot be used
│   ├── UnreadableImage   not an image, empty, truncated, animated, or a format that is not allowed
│   ├── ImageTooLarge     too many bytes or pixels, or too long and thin
│   ├── ImageNotFound     a reference to an image the store does not hold
│   ├── ImageTampered     a stored image whose bytes no longer match its name
│   └── ImageRefused      a source we do not open: a remote URL, a file path, an unknown scheme or block
├── RegionError           a box that cannot be meant
├── ModelError            a checkpoint or server that cannot be used, or that failed
├── DataError             a bad training or evaluation input file
└── SettingsError         training settings, or an installed library, that training cannot work with
"""

from __future__ import annotations

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
]


class VtagentError(Exception):
    """Anything vtagent refuses or cannot do."""


class ImageError(VtagentError):
    """An image, or a reference to one, that cannot be used."""


class UnreadableImage(ImageError):
    """The bytes are not one complete still image in an allowed format."""


class ImageTooLarge(ImageError):
    """The image has too many bytes or pixels, or is too long and thin."""


class ImageNotFound(ImageError):
    """The store does not hold the image the reference names."""


class ImageTampered(ImageError):
    """The stored bytes no longer match the hash they are kept under."""


class ImageRefused(ImageError):
    """The image comes from a source we do not open."""


class RegionError(VtagentError):
    """The box cannot be meant."""


class ModelError(VtagentError):
    """The checkpoint or server cannot be used, or failed."""


class DataError(VtagentError):
    """A training or evaluation input file is bad."""


class SettingsError(VtagentError):
    """The training settings, or the libraries installed, cannot work."""
