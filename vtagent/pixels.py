"""Decodes untrusted bytes to one upright RGB image, or raises one clear error. Limits are checked before decoding."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache

from PIL import Image, UnidentifiedImageError

from vtagent.decoder_process import TookTooMuch, decode_alone
from vtagent.errors import ImageError, ImageTooLarge, UnreadableImage, one_line
from vtagent.formats import Stripped, check_size, strip
from vtagent.formats.libtiff import silence
from vtagent.limits import ImageLimits

__all__ = ["ImageLimits", "decode", "inspect", "is_drafted", "turned"]

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)

_MANY_SAMPLES = 256_000_000
"""A JPEG whose scans cover more samples is always decoded whole: a reduced scale saves little of its time."""

_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}
"""Bytes of a pixel in memory, by Pillow's mode; 4 in all other modes."""

_BAND = 2**20
"""Pixels to convert at a time."""


def inspect(data: bytes, *, limits: ImageLimits, directory: int | None = None) -> tuple[str, int, int]:
    """Reads type and size of an encoded image from its header.

    Args:
        data: The encoded file.
        limits: Limits that the image must meet.
        directory: Where the directory of a TIFF's page begins; None if the file must be one image.

    Returns:
        (mime type, width, height), in pixels after EXIF rotation.

    Raises:
        UnreadableImage: It is empty, animated, or not an image in one of `limits.formats`.
        ImageTooLarge: It has more bytes, pixels or parts, or costs more to decode, than `limits` allow.
    """
    stripped = _stripped(data, limits, directory)
    with _open(stripped, limits) as image:
        width, height = image.size
    if stripped.orientation in _SIDEWAYS:
        width, height = height, width
    return Image.MIME[stripped.format], width, height


def is_drafted(data: bytes, *, limits: ImageLimits) -> bool:
    """Returns whether `decode` takes a size hint for this file: for all JPEGs but those of very many scans.

    Args:
        data: The encoded file.
        limits: Limits that the image must meet.
    """
    return data.startswith(b"\xff\xd8") and _stripped(data, limits).scanned <= _MANY_SAMPLES


def decode(
    data: bytes, *, limits: ImageLimits, size_hint: tuple[int, int] | None = None, directory: int | None = None
) -> Image.Image:
    """Decodes an image completely: upright, RGB, transparency on white, samples of more than 8 bits cut to 8.

    The decoder gets the file without its metadata (`vtagent.formats`), so the limits bound its time and memory. What
    they cannot bound is decoded in a process that is ended at `limits.max_seconds`: run-length BMPs, and TIFFs with a
    rare compression or with JPEG in several scans. All else is decoded in this process.

    Args:
        data: The encoded file.
        limits: Limits that the image must meet.
        size_hint: Upright (width, height) in pixels beyond which the caller needs no detail. A JPEG is then decoded at
            the smallest of 1/1, 1/2, 1/4 and 1/8 of its size that is at least this large on both sides. Other formats,
            and JPEGs of very many scans, ignore the hint.
        directory: As for `inspect`.

    Returns:
        The pixels, at full size unless `size_hint` reduces them.

    Raises:
        UnreadableImage: As in `inspect`; or it is truncated or corrupt, or has 32-bit samples, whose range is unknown.
        ImageTooLarge: As in `inspect`; or the decoder process has been ended.
    """
    stripped = _stripped(data, limits, directory)
    with _open(stripped, limits) as image:
        if size_hint is not None and stripped.format == "JPEG" and stripped.scanned <= _MANY_SAMPLES:
            image.draft(None, size_hint[::-1] if stripped.orientation in _SIDEWAYS else size_hint)
        try:
            if stripped.alone:
                rgb = _to_rgb(_decoded_alone(stripped, limits), stripped)
            else:
                image.load()
                for name in ("fp", "_fp", "_decoder"):  # the file and the decoder's canvases, up to 12 bytes a pixel
                    vars(image).pop(name, None)
                rgb = _to_rgb(image, stripped)
        except ImageError:
            raise
        except Exception as error:  # a corrupt file can make a codec raise anything
            raise UnreadableImage(
                f"the {stripped.format} cannot be decoded ({one_line(error)}): is it complete?"
            ) from error
    turn = _UPRIGHT.get(stripped.orientation)
    return rgb if turn is None else rgb.transpose(turn)


def turned(image: Image.Image, degrees: int) -> Image.Image:
    """Returns an image turned clockwise by 0, 90, 180 or 270 degrees; the image itself at 0."""
    return image if degrees == 0 else image.transpose(_UPRIGHT[{90: 6, 180: 3, 270: 8}[degrees]])


def _stripped(data: bytes, limits: ImageLimits, directory: int | None = None) -> Stripped:
    most = limits.max_bytes if directory is None else limits.documents.max_bytes
    if not data:
        raise UnreadableImage("the image is empty: 0 bytes")
    if len(data) > most:
        raise ImageTooLarge(f"the image has {len(data)} bytes; at most {most} are allowed")
    return strip(data, limits, directory)


def _open(stripped: Stripped, limits: ImageLimits) -> Image.Image:
    """Opens the header and checks the limits that depend on how Pillow reads it."""
    if stripped.format == "TIFF":
        silence()
    try:
        image: Image.Image = Image.open(io.BytesIO(stripped.data), formats=(stripped.format,))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(f"too many pixels for PIL.Image.MAX_IMAGE_PIXELS ({one_line(error)})") from error
    except UnidentifiedImageError:
        raise UnreadableImage(f"not a complete {stripped.format}: its header cannot be read") from None
    except Exception as error:
        raise UnreadableImage(f"the image's header cannot be read ({one_line(error)}): is it complete?") from error
    check_size(*image.size, limits)
    memory = _memory(image, stripped)
    if memory > limits.max_memory:
        width, height = image.size
        raise ImageTooLarge(
            f"the {stripped.format} of {width}x{height} pixels takes about {memory} bytes to decode; at most "
            f"{limits.max_memory} are allowed: save it smaller, or as a baseline JPEG"
        )
    return image


def _memory(image: Image.Image, stripped: Stripped) -> int:
    """Returns the bytes that decoding takes at most: the pixels as loaded, then the decoder's buffers or RGB pixels."""
    pixels = image.width * image.height
    converted = 0 if image.mode == "RGB" and "transparency" not in image.info else 4 * pixels
    return pixels * _BYTES.get(image.mode, 4) + max(converted, stripped.buffers)


def _decoded_alone(stripped: Stripped, limits: ImageLimits) -> Image.Image:
    try:
        return decode_alone(stripped.data, stripped.format, seconds=limits.max_seconds, memory=limits.max_memory)
    except TookTooMuch as error:
        raise ImageTooLarge(
            f"the {stripped.format} takes {error} to decode: save it again with an ordinary program"
        ) from None


def _to_rgb(image: Image.Image, stripped: Stripped) -> Image.Image:
    """Converts loaded pixels to RGB: transparency on white, deep grey cut to its high byte as Pillow cuts colour."""
    clear = image.info.get("transparency")
    if stripped.format == "PNG" and stripped.bits == 16 and isinstance(clear, tuple):
        # Pillow cuts 16-bit colours to 8 bits, but not the colour that is declared transparent.
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    if image.mode.startswith("I;16"):
        return _in_bands(image, lambda band: _on_white(_high_byte(band, stripped)))
    if image.mode in ("I", "F"):
        raise UnreadableImage("the image has 32-bit samples of unknown range: save it with 8 or 16 bits")
    if image.has_transparency_data:
        return _in_bands(image, _on_white)
    if image.mode == "RGB":
        return image  # `convert` would copy it, which takes 5 % of the time of a low view
    return image.convert("RGB")  # CMYK by plain subtraction: like the processors, this applies no colour profile


def _in_bands(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Converts pixels to RGB some rows at a time, so that the steps between need memory for those alone."""
    out = Image.new("RGB", image.size)
    rows = max(1, _BAND // image.width)
    for top in range(0, image.height, rows):
        out.paste(convert(image.crop((0, top, image.width, min(top + rows, image.height)))), (0, top))
    return out


def _on_white(band: Image.Image) -> Image.Image:
    if not band.has_transparency_data:
        return band.convert("RGB")
    rgba = band.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _high_byte(band: Image.Image, stripped: Stripped) -> Image.Image:
    """Converts grey of 9 to 16 bits to 8-bit grey, with alpha if one grey is declared transparent."""
    transparent = band.info.get("transparency")
    samples = band.convert("I")  # the only mode above 8 bits that Pillow maps through a table
    grey = samples.point(_table(stripped.bits, stripped.white_is_zero), "L")
    if not isinstance(transparent, int):
        return grey
    alpha = samples.point([0 if value == transparent else 255 for value in range(65536)], "L")
    return Image.merge("LA", (grey, alpha))


@cache
def _table(bits: int, white_is_zero: bool) -> tuple[int, ...]:
    """Returns the 8-bit grey of each 16-bit number that holds a sample of so many bits."""
    greys = (min(255, value >> bits - 8) for value in range(65536))
    return tuple(255 - grey if white_is_zero else grey for grey in greys)
