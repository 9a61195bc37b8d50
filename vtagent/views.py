"""Views: an image reference with a region and a scale. A view is rendered to pixels only when a model looks at it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from PIL import Image

from vtagent.caches import SharedCache
from vtagent.encoding import LOSSLESS, EncodedImage, Encoding, encode, plain_original
from vtagent.errors import ImageRefused, RegionError
from vtagent.eyes.vision import Vision
from vtagent.images import ImageRef, ImageStore
from vtagent.names import ImageName
from vtagent.regions import SCALE, Region

__all__ = ["UNSEEN", "View", "ViewRenderer", "asked_for", "data_url", "is_reference"]

_URL = re.compile(
    r"vtimg://sha256/([0-9a-f]{64})"
    r"(?:\?(?:page=([1-9][0-9]{0,5}))?&?(?:turn=([0-9]+))?&?(?:region=([0-9]+(?:,[0-9]+){3}))?&?(?:scale=(0\.[0-9]+))?)?"
)

UNSEEN = 0.0001
"""The scale of a view that stands for one which the model is no longer shown: a zoom always shows more."""

_WHOLE = Region(0, 0, SCALE, SCALE)

# A view with at least this share of another's pixels per original pixel shows the same detail: rounding sizes to the
# model's grid changes them by as much.
_AS_FINE = 0.9

# A reduced JPEG may be smaller than the view by this share. Photographs rarely fit the grid: half of 4000 is 2000, and
# the view has 2016.
_DRAFT_SLACK = 1 / 50

# A reduced JPEG whose sides differ from the view's by less than this share is resized with the cheaper filter.
_CLOSE = 1 / 20

# Pixels to resize at a time: one band and Pillow's buffers for it fit into a core's cache.
_BAND = 2**18


@dataclass(frozen=True)
class View:
    """One way of looking at an image: all of it or a region, at full or reduced scale.

    Attributes:
        ref: The original.
        scale: Sides of the view relative to full resolution, above 0 and at most 1; rounded to four decimals.
        region: The part that is shown; None is the whole image.

    Raises:
        ValueError: The scale is outside (0, 1].

    Example:
        >>> ref = ImageRef("ab" * 32, 4032, 3024, "image/jpeg")
        >>> low = View(ref, scale=0.5)
        >>> low.url[-10:], low.size(QWEN2_5_VL), low.tokens(QWEN2_5_VL)
        ('?scale=0.5', (2016, 1512), 3888)
    """

    ref: ImageRef
    scale: float = 1.0
    region: Region | None = None

    def __post_init__(self) -> None:
        scale = round(float(self.scale), 4)
        if not 0 < scale <= 1:
            raise ValueError(f"a view's scale must be above 0 and at most 1, got {self.scale}")
        object.__setattr__(self, "scale", scale)
        if self.region is not None and self.region.is_whole:
            object.__setattr__(self, "region", None)

    @property
    def url(self) -> str:
        """The reference that messages carry; equal views have equal URLs."""
        query = [] if self.region is None else [f"region={self.region}"]
        if self.scale != 1:
            query.append(f"scale={self.scale:.4f}".rstrip("0"))
        start = "&" if self.ref.page or self.ref.turn else "?"
        return self.ref.url + (start + "&".join(query) if query else "")

    @staticmethod
    def parse_url(url: str) -> tuple[str, float, Region | None]:
        """Parses a URL that is written exactly as `View.url` writes it.

        Returns:
            (id of the image or page, scale, region).

        Raises:
            ImageRefused: It is written in any other way, or is not a view's URL.
        """
        return _parsed(url)

    @classmethod
    def from_url(cls, url: str, store: ImageStore) -> View:
        """Returns the view that a URL names, of an image in `store`.

        Raises:
            ImageRefused: It is not a view's URL.
            ImageNotFound, ImageTampered: As in `ImageStore.ref`.
        """
        id_, scale, region = cls.parse_url(url)
        return cls(store.ref(id_), scale, region)

    @classmethod
    def from_block(cls, block: Mapping[str, Any], store: ImageStore) -> View:
        """Returns the view that an image block names. Only its URL is used; size and type come from the store.

        Raises:
            ImageRefused: The block is not an image reference.
            ImageNotFound, ImageTampered: As in `ImageStore.ref`.
        """
        if not is_reference(block):
            raise ImageRefused("not an image reference block: expected type 'image' and a vtimg:// url")
        return cls.from_url(block["url"], store)

    def block(self, asked: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Returns the content block for a message: a few hundred bytes of JSON with the original's size in `extras`.

        Args:
            asked: How the caller wants the image to be shown, as `asked_for` reads it; kept in `extras`.
        """
        return {
            "type": "image",
            "url": self.url,
            "mime_type": self.ref.mime_type,
            "extras": {"width": self.ref.width, "height": self.ref.height, **(asked or {})},
        }

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The part that is shown, as (left, top, right, bottom) in pixels of the original."""
        return (self.region or _WHOLE).to_pixels(self.ref.width, self.ref.height)

    @lru_cache(maxsize=4096)  # noqa: B019 (views are small and their number is bounded)
    def size(self, spec: Vision) -> tuple[int, int]:
        """Returns the size of the rendered view, which the model's processor does not change.

        Args:
            spec: What the model does to the size of an image.

        Returns:
            (width, height) in pixels.

        Raises:
            ImageTooLarge: The part is too long and thin for the model; `Region.fitted` avoids this.
        """
        left, top, right, bottom = self.box
        if self.scale == 1:
            return spec.fit(right - left, bottom - top)
        return spec.low(right - left, bottom - top, self.scale)

    @lru_cache(maxsize=4096)  # noqa: B019
    def tokens(self, spec: Vision) -> int:
        """Returns the number of visual tokens that the view is billed; below scale 1, with the model's low setting."""
        return spec.tokens(*self.size(spec), low=self.scale < 1)

    def covers(self, other: View, spec: Vision | None = None) -> bool:
        """Returns whether this view shows everything that `other` shows: same image, all of its part, no less detail.

        Args:
            other: The view that is asked for.
            spec: If given, the views are compared by what is rendered, in pixels per original pixel and at most one.
                That differs from the scale: small images are not reduced, very large ones always are. Without it,
                the scales are compared.
        """
        if self.ref.id != other.ref.id or not (self.region or _WHOLE).contains(other.region or _WHOLE):
            return False
        if spec is None:
            return self.scale >= other.scale
        return self._fineness(spec) >= _AS_FINE * other._fineness(spec)

    def _fineness(self, spec: Vision) -> float:
        """Returns the rendered pixels per original pixel along a side, at most 1: enlarging adds no detail."""
        left, top, right, bottom = self.box
        width, height = self.size(spec)
        return min(1.0, math.sqrt((width * height) / ((right - left) * (bottom - top))))


@lru_cache(maxsize=4096)  # every node of a graph and every call of a model parses the same few references
def _parsed(url: str) -> tuple[str, float, Region | None]:
    match = _URL.fullmatch(url)
    expected = "expected vtimg://sha256/<64 hex digits>, ?page=3, region=x1,y1,x2,y2 and scale=0.5 as needed"
    if match is None:
        raise ImageRefused(f"not an image reference: {url[:160]!r}; {expected}")
    sha256, page, turn, box, scale = match.groups()
    try:
        region = Region(*(int(number[:5]) for number in box.split(","))) if box else None
        ref = ImageRef(sha256, 1, 1, "", int(page) if page else None, int((turn or "0")[:4]))
        view = View(ref, float(scale or 1), region)
    except (RegionError, ValueError) as error:
        raise ImageRefused(f"not an image reference: {url[:160]!r} ({error})") from None
    if view.url != url:
        raise ImageRefused(f"not an image reference: {url[:160]!r}; expected it as {view.url!r}")
    return str(ImageName.parse(ref.id)), view.scale, view.region


def is_reference(block: object) -> bool:
    """Returns whether a content block claims to be an image reference; `View.from_block` checks that it is valid."""
    if not isinstance(block, (dict, Mapping)) or block.get("type") != "image":  # dict first: it is faster to tell
        return False
    url = block.get("url")
    return isinstance(url, str) and url.startswith("vtimg:")


_SETTINGS = {
    "detail": ("low", "high", "original"),
    "media_resolution": tuple(f"MEDIA_RESOLUTION_{size}" for size in ("LOW", "MEDIUM", "HIGH", "ULTRA_HIGH")),
}
"""The settings by which callers say how an image is to be shown; "auto" says nothing."""


def asked_for(block: Mapping[str, Any]) -> dict[str, str]:
    """Returns the caller's own `detail` or `media_resolution`, from an image block of any dialect or a reference.

    Other values than those that the APIs know are left out.
    """
    places = [block.get("extras"), block.get("image_url"), block]
    found: dict[str, str] = {}
    for name, known in _SETTINGS.items():
        value = next((place[name] for place in places if isinstance(place, Mapping) and name in place), None)
        if isinstance(value, str) and value in known:
            found[name] = value
    return found


class ViewRenderer:
    """Renders views to pixels and caches the latest ones. Equal views that threads ask for together are rendered once.

    Args:
        store: The store that holds the originals.
        spec: What the model does to the size of an image.
        cache_size: Bytes of rendered pixels to keep, at 3 bytes per pixel.
        encoded_size: Bytes of encoded views to keep.
    """

    def __init__(
        self,
        store: ImageStore,
        spec: Vision,
        *,
        cache_size: int = 256 * 2**20,
        encoded_size: int = 64 * 2**20,
    ) -> None:
        self.store = store
        self.spec = spec
        self._views: SharedCache[View, Image.Image] = SharedCache(cache_size, _weight)
        self._encoded: SharedCache[tuple[View, Encoding], EncodedImage] = SharedCache(encoded_size, _length)

    def render(self, view: View) -> Image.Image:
        """Renders a view. The same view of the same bytes always gives the same pixels.

        A JPEG that is shown whole is decoded at reduced scale. A region is cropped from the fully decoded original,
        then resized. A page of a PDF, or a region of it, is drawn at the view's size.

        Args:
            view: The view to render.

        Returns:
            An RGB image of exactly `view.size(spec)`; the caller may change it.

        Raises:
            ImageNotFound, ImageTampered, UnreadableImage, ImageTooLarge: The original is missing or cannot be used.
        """
        return self._views.get(view, lambda: self._render(view)).copy()

    def encode(self, view: View, encoding: Encoding = LOSSLESS) -> EncodedImage:
        """Encodes a view for a request, and keeps the result.

        A whole view whose size is that of the original is sent as the original file, without its metadata, where that
        is smaller and allowed. Any other lossy view of a whole image takes at most the bytes of the original file, as
        far as the quality allows.

        Args:
            view: The view to send.
            encoding: How to encode it: `LOSSLESS`, or `LOSSY` for hosted models.

        Returns:
            The file to send and its type.

        Raises:
            ImageTooLarge: As in `render`; or the view takes more than `encoding.max_bytes` bytes.
            ImageNotFound, ImageTampered, UnreadableImage: As in `render`.
        """
        return self._encoded.get((view, encoding), lambda: self._encode(view, encoding))

    def _encode(self, view: View, encoding: Encoding) -> EncodedImage:
        image = self._views.get(view, lambda: self._render(view))
        if view.region is not None or view.ref.page or view.ref.turn:  # the file is not this image
            return encode(image, encoding)
        data = self.store.get(view.ref.sha256)
        original = None
        if view.size(self.spec) == (view.ref.width, view.ref.height):
            original = plain_original(data, encoding, limits=self.store.limits)
            if original and encoding.max_bytes is not None and len(original.data) > encoding.max_bytes:
                original = None
        encoded = encode(image, encoding, original=None if original else len(data))
        return original if original and len(original.data) <= len(encoded.data) else encoded

    def _render(self, view: View) -> Image.Image:
        size = view.size(self.spec)
        if view.ref.page is not None:
            return self.store.part(view.ref.id, view.box, size)
        if view.region is None:
            hint = (size[0] - int(size[0] * _DRAFT_SLACK), size[1] - int(size[1] * _DRAFT_SLACK))
            image = self.store.pixels(view.ref.id, size_hint=hint)
        else:
            image = self.store.pixels(view.ref.id).crop(view.box)
        if image.size == size:
            return image
        drafted = view.region is None and image.size != (view.ref.width, view.ref.height)
        if drafted and all(abs(have - want) < _CLOSE * want for have, want in zip(image.size, size, strict=True)):
            return _corrected(image, size)
        return image.resize(size, Image.Resampling.BICUBIC)


def _corrected(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resizes a reduced JPEG to its view's size. They differ by a few percent, so bilinear filtering loses no detail.

    This takes nearly as long as decoding, so bands are resized on two threads: Pillow releases the GIL. Each band reads
    its neighbours' pixels, so there are no seams.
    """
    width, height = size
    bands = -(-width * height // _BAND)
    edges = [height * band // bands for band in range(bands + 1)]
    out = Image.new("RGB", size)

    def fill(top: int, bottom: int) -> None:
        box = (0, top * image.height / height, image.width, bottom * image.height / height)
        out.paste(image.resize((width, bottom - top), Image.Resampling.BILINEAR, box=box), (0, top))

    with ThreadPoolExecutor(2 if bands > 1 else 1) as pool:
        list(pool.map(fill, edges, edges[1:]))
    return out


def _weight(image: Image.Image) -> int:
    """Returns the size of rendered pixels, in bytes."""
    return 3 * image.width * image.height


def _length(encoded: EncodedImage) -> int:
    """Returns the size of an encoded view, in bytes."""
    return len(encoded.data)


def data_url(image: Image.Image, encoding: Encoding = LOSSLESS) -> str:
    """Encodes pixels as a `data:` URL, for servers that take pixels in the request. Views: `ViewRenderer.encode`.

    Args:
        image: The pixels.
        encoding: How to encode them; a PNG of the exact pixels by default.

    Raises:
        ImageTooLarge: As in `vtagent.encoding.encode`.
    """
    return encode(image, encoding).data_url
