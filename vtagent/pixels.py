"""Decodes untrusted bytes to one upright RGB image, or raises one clear error. Limits are checked before decoding."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from vtagent.errors import ImageError, ImageTooLarge, UnreadableImage, one_line

__all__ = ["ImageLimits", "decode", "inspect"]


@dataclass(frozen=True)
class ImageLimits:
    """Limits of an image. They are checked on its header, before any pixel is decoded.

    Attributes:
        max_bytes: Largest size of the encoded file, in bytes.
        max_pixels: Largest width times height. To go far above 89 million, raise `PIL.Image.MAX_IMAGE_PIXELS` as well.
        max_aspect: Largest ratio of the longer side to the shorter; the Qwen processors accept up to 200.
        formats: Pillow's names of the formats that may be opened.
    """

    max_bytes: int = 32 * 2**20
    max_pixels: int = 64_000_000
    max_aspect: int = 200
    formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


# The EXIF tag whose value says how to turn the stored rows upright.
_ORIENTATION = 274
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


def inspect(data: bytes, *, limits: ImageLimits) -> tuple[str, int, int]:
    """Reads type and size of an encoded image from its header.

    Args:
        data: The encoded file.
        limits: Limits that the image must meet.

    Returns:
        (mime type, width, height), in pixels after EXIF rotation.

    Raises:
        UnreadableImage: It is empty, animated, or not an image in one of `limits.formats`.
        ImageTooLarge: It has more bytes or pixels, or is longer and thinner, than `limits` allow.
    """
    with _open(data, limits) as image:
        width, height = image.size
        if image.format != "TIFF" and _orientation(image) in _SIDEWAYS:  # Pillow turns the size of a TIFF itself
            width, height = height, width
        return Image.MIME["JPEG" if image.format == "MPO" else str(image.format)], width, height


def decode(data: bytes, *, limits: ImageLimits, size_hint: tuple[int, int] | None = None) -> Image.Image:
    """Decodes an image completely: upright, RGB, transparency on white, 16-bit samples cut to 8 bits.

    Args:
        data: The encoded file.
        limits: Limits that the image must meet.
        size_hint: Upright (width, height) in pixels beyond which the caller needs no detail. A JPEG is then decoded at
            the smallest of 1/1, 1/2, 1/4 and 1/8 of its size that is at least this large on both sides. Other formats
            ignore the hint.

    Returns:
        The pixels, at full size unless `size_hint` reduces them.

    Raises:
        UnreadableImage: As in `inspect`; or it is truncated or corrupt, or has 32-bit samples, whose range is unknown.
        ImageTooLarge: As in `inspect`.
    """
    with _open(data, limits) as image:
        turn = None
        if image.format in ("JPEG", "MPO"):
            turn = _UPRIGHT.get(_orientation(image))
            if size_hint is not None:
                sideways = _orientation(image) in _SIDEWAYS
                image.draft(None, size_hint[::-1] if sideways else size_hint)
        try:
            image.load()
            # Pillow turns TIFFs itself. A PNG may store its orientation after its pixels, so read it after loading.
            if image.format not in ("JPEG", "MPO", "TIFF"):
                turn = _UPRIGHT.get(_orientation(image))
            clear = image.info.get("transparency")
            if image.format == "PNG" and data[24] == 16 and isinstance(clear, tuple):
                # Pillow cuts 16-bit colours to 8 bits, but not the colour that is declared transparent.
                image.info["transparency"] = tuple(value >> 8 for value in clear)
            rgb = _to_rgb(image)
        except ImageError:
            raise
        except Exception as error:  # a corrupt file can make a codec raise anything
            raise UnreadableImage(
                f"the {image.format} cannot be decoded ({one_line(error)}): is it complete?"
            ) from error
        return rgb if turn is None else rgb.transpose(turn)


def _open(data: bytes, limits: ImageLimits) -> Image.Image:
    """Opens the header and checks all limits that can be checked without decoding."""
    if not data:
        raise UnreadableImage("the image is empty: 0 bytes")
    if len(data) > limits.max_bytes:
        raise ImageTooLarge(f"the image has {len(data)} bytes; at most {limits.max_bytes} are allowed")
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=limits.formats)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(f"too many pixels for PIL.Image.MAX_IMAGE_PIXELS ({one_line(error)})") from error
    except UnidentifiedImageError:
        raise UnreadableImage(f"not a complete image ({_guess(data)}): expected {', '.join(limits.formats)}") from None
    except Exception as error:
        raise UnreadableImage(f"the image's header cannot be read ({one_line(error)}): is it complete?") from error
    width, height = image.size
    if min(width, height) < 1:
        raise UnreadableImage(f"the image has no pixels: {width}x{height}")
    if width * height > limits.max_pixels:
        raise ImageTooLarge(f"the image is {width}x{height} pixels; at most {limits.max_pixels} in all are allowed")
    if max(width, height) > limits.max_aspect * min(width, height):
        raise ImageTooLarge(f"the image is {width}x{height}: one side may be at most {limits.max_aspect}x the other")
    if _is_animated(image):
        raise UnreadableImage(f"the {image.format} has more than one frame or page: give one still image")
    return image


def _is_animated(image: Image.Image) -> bool:
    if image.format == "MPO":  # a phone's JPEG with a second image for depth or HDR; the first one is the photograph
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception as error:
        raise UnreadableImage(f"the {image.format} ends inside a frame ({one_line(error)}): is it complete?") from error


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1 to 8. Unreadable EXIF counts as upright, as in image viewers."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        return 1
    return value if isinstance(value, int) else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Converts loaded pixels to RGB: transparency on white, 16-bit grey cut to its high byte as Pillow cuts colour."""
    if image.mode.startswith("I;16"):
        image = _high_byte(image)
    elif image.mode in ("I", "F"):
        raise UnreadableImage("the image has 32-bit samples of unknown range: save it with 8 or 16 bits")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    if image.mode == "RGB":
        return image  # `convert` would copy it, which takes 5 % of the time of a low view
    return image.convert("RGB")  # CMYK by plain subtraction: like the processors, this applies no colour profile


def _high_byte(image: Image.Image) -> Image.Image:
    """Converts 16-bit grey to 8-bit grey, with alpha if one grey is declared transparent."""
    transparent = image.info.get("transparency")
    samples = image.convert("I")  # the only mode above 8 bits that Pillow maps through a table
    grey = samples.point([value >> 8 for value in range(65536)], "L")
    if not isinstance(transparent, int):
        return grey
    alpha = samples.point([0 if value == transparent else 255 for value in range(65536)], "L")
    return Image.merge("LA", (grey, alpha))


def _guess(data: bytes) -> str:
    """Says what unidentified bytes seem to be, and how to convert them."""
    if data.startswith(b"%PDF"):
        return "this is a PDF: render its pages first"
    if data[4:8] == b"ftyp":
        return "this looks like HEIC, AVIF or video: convert it first"
    return f"it starts with {data[:8]!r}"
