"""What is known of an image file once its structure has been read."""

from __future__ import annotations

from dataclasses import dataclass

from vtagent.errors import ImageTooLarge, UnreadableImage
from vtagent.limits import ImageLimits

__all__ = ["Counter", "Stripped", "refuse_frames"]


@dataclass(frozen=True)
class Stripped:
    """An image file without its metadata.

    Attributes:
        format: Pillow's name of the format.
        data: The file that the decoder gets.
        width: Width in pixels, as stored.
        height: Height in pixels, as stored.
        orientation: EXIF orientation, 1 to 8. `data` no longer says it.
        decoded_bytes: Size of the uncompressed samples as stored, in bytes; 0 if the format bounds it.
        buffers: Bytes that the decoder takes besides the pixels that it returns.
        scanned: Samples that all scans of a JPEG cover together; 0 if it is decoded in one pass.
        bits: Bits of a sample.
        white_is_zero: Whether a grey sample of more than 8 bits is larger the darker it is.
        alone: Whether it is decoded in a process of its own, because nothing else bounds the decoder.
    """

    format: str
    data: bytes
    width: int
    height: int
    orientation: int = 1
    decoded_bytes: int = 0
    buffers: int = 0
    scanned: int = 0
    bits: int = 8
    white_is_zero: bool = False
    alone: bool = False


class Counter:
    """Counts the parts of a file, up to a limit.

    Args:
        format: The file's format, for the error.
        part: What is counted, in the plural.
        limits: The limits, of which `max_chunks` counts.
    """

    def __init__(self, format: str, part: str, limits: ImageLimits) -> None:
        self._text = f"the {format} has more than {limits.max_chunks} {part}: save it again with an ordinary program"
        self._left = limits.max_chunks

    def add(self, count: int = 1) -> None:
        """Counts some more parts.

        Raises:
            ImageTooLarge: There are too many.
        """
        self._left -= count
        if self._left < 0:
            raise ImageTooLarge(self._text)


def refuse_frames(format: str) -> UnreadableImage:
    """Returns the error for a file of several frames."""
    return UnreadableImage(f"the {format} has more than one frame or page: give one still image")
