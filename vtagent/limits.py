"""Limits of an image and of a file of pages. They are checked on the file's structure, before a pixel is decoded."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DocumentLimits", "ImageLimits"]


@dataclass(frozen=True)
class DocumentLimits:
    """Limits of a file of pages. A page is an image, so `ImageLimits` hold for each page that is looked at.

    Attributes:
        max_bytes: Largest size of the file, in bytes.
        max_pages: Largest number of pages.
        dpi: Dots per inch at which a page without pixels of its own counts as shown in full. Small print needs no more.
        max_seconds: Processor time, in seconds, for opening a PDF, and for rendering or reading one page of it.
        max_memory: Bytes that the process which reads a PDF may take, beside the file itself.
        max_words: Largest number of words that are read from the text layer of one page; further ones are left out.
    """

    max_bytes: int = 256 * 2**20
    max_pages: int = 20_000
    dpi: int = 200
    max_seconds: float = 20.0
    max_memory: int = 2**30
    max_words: int = 50_000


@dataclass(frozen=True)
class ImageLimits:
    """Limits of an image. They are checked on its header and structure, before any pixel is decoded.

    A file has one frame: animations and files of several pages are refused. Metadata never reaches the decoder, so it
    may be of any size up to `max_bytes`.

    Attributes:
        max_bytes: Largest size of the encoded file, in bytes.
        max_pixels: Largest width times height. To go far above 89 million, raise `PIL.Image.MAX_IMAGE_PIXELS` as well.
        max_aspect: Largest ratio of the longer side to the shorter; the Qwen processors accept up to 200.
        formats: Pillow's names of the formats that may be opened.
        max_chunks: Largest number of parts of a file: segments of a JPEG, chunks of a PNG or WebP, blocks of a GIF,
            tags and strips of a TIFF.
        max_scans: Scans that a JPEG of `max_pixels` may have. A smaller JPEG may have more in proportion, since a scan
            costs time for every sample that it covers. Ten are what encoders write for a progressive JPEG.
        max_metadata_bytes: Bytes to which a compressed text of a PNG is inflated in search of the orientation. A longer
            text is ignored.
        max_decoded_bytes: Largest size of the samples of a PNG or TIFF as it stores them, uncompressed, in bytes: 8 for
            each pixel of 16-bit RGBA. It bounds the time that inflating takes.
        max_memory: Bytes that decoding may take, estimated from the header. That is 4 for each pixel of an RGB image
            and 8 where transparency is laid on white. A WebP takes 16, a JPEG of several scans 7 to 10.
        max_seconds: Processor time, in seconds, that a separate decoder process may take. See `vtagent.pixels.decode`
            for the files that need one.
        documents: Limits of a file of pages.
    """

    max_bytes: int = 32 * 2**20
    max_pixels: int = 64_000_000
    max_aspect: int = 200
    formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
    max_chunks: int = 2**17
    max_scans: int = 10
    max_metadata_bytes: int = 2**20
    max_decoded_bytes: int = 2**28
    max_memory: int = 400_000_000
    max_seconds: float = 1.0
    documents: DocumentLimits = DocumentLimits()
