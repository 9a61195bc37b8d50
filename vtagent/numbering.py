"""How images that are shown together are told apart in words.

A model that is to name one of several images by its number reads the number better than it counts.
"""

from __future__ import annotations

NUMBERED = "Image "
"""What the number of an image follows."""


def label_of(number: int) -> str:
    """The text that stands before an image that is shown with others.

    Args:
        number: Counted from 1.

    Example:
        >>> label_of(3)
        'Image 3:'
    """
    return f"{NUMBERED}{number}:"
