"""A view is an image reference with a region and a scale, turned into pixels only when a model is about to look."""

from __future__ import annotations

import base64
import io
import math
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from PIL import Image

from vtagent.errors import ImageRefused, RegionError
from vtagent.images import ImageRef, ImageStore
from vtagent.pixels import decode
from vtagent.regions import SCALE, Region
from vtagent.visual_tokens import VisionSpec

__all__ = ["View", "ViewRenderer", "data_url", "is_reference"]

_URL = re.compile(r"vtimg://sha256/([0-9a-f]{64})(?:\?(?:region=([0-9]+(?:,[0-9]+){3}))?&?(?:scale=(0\.[0-9]+))?)?")

_WHOLE = Region(0, 0, SCALE, SCALE)

# Closer than this in pixels per original pixel, two views show the same detail: the grid alone moves sizes that much.
_AS_FINE = 0.9

# A JPEG decoded this much short of a view still serves it: grids rarely divide photographs; half of 4000 is not 2016.
_DRAFT_SLACK = 1 / 50

# Sides that differ by less than this share are merely corrected.
_CLOSE = 1 / 20

# Pixels that are corrected at a time: a band with what Pillow keeps beside it then stays in a core's cache.
_BAND = 2**18


@dataclass(frozen=True)
class View:
    """One way of looking at an image: all of it or a region, at full or reduced scale.

    Attributes:
        ref: The original.
        scale: Sides of the view relative to the view at full resolution, above 0 and at most 1; kept to four decimals.
        region: The part shown; None is the whole image.

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
        return self.ref.url + ("?" + "&".join(query) if query else "")

    @staticmethod
    def parse_url(url: str) -> tuple[str, float, Region | None]:
        """(sha256, scale, region) of a view's URL, which must be written exactly as `View.url` writes it.

        Raises:
            ImageRefused: It is not.
        """
        return _parsed(url)

    @classmethod
    def from_url(cls, url: str, store: ImageStore) -> View:
        """The view a URL names, of an image in `store`.

        Raises:
            ImageRefused: Not a view's URL.
            ImageNotFound, ImageTampered: As `ImageStore.ref`.
        """
        sha256, scale, region = cls.parse_url(url)
        return cls(store.ref(sha256), scale, region)

    @classmethod
    def from_block(cls, block: Mapping[str, Any], store: ImageStore) -> View:
        """The view an image block names. Only its URL is believed: sizes and type come from the store.

        Raises:
            ImageRefused: Not a block that `View.block` could have made.
            ImageNotFound, ImageTampered: As `ImageStore.ref`.
        """
        if not is_reference(block):
            raise ImageRefused("not an image reference block: expected type 'image' and a vtimg:// url")
        return cls.from_url(block["url"], store)

    def block(self) -> dict[str, Any]:
        """The content block for a message: JSON, a few hundred bytes, with the original's size in `extras`."""
        return {
            "type": "image",
            "url": self.url,
            "mime_type": self.ref.mime_type,
            "extras": {"width": self.ref.width, "height": self.ref.height},
        }

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) of the part shown, in pixels of the original."""
        return (self.region or _WHOLE).to_pixels(self.ref.width, self.ref.height)

    def size(self, spec: VisionSpec) -> tuple[int, int]:
        """(width, height) in pixels of the rendered view: a size the model's processor leaves as it is.

        Raises:
            ImageTooLarge: The part shown is too long and thin for the model; see `Region.fitted`.
        """
        left, top, right, bottom = self.box
        width, height = spec.fit(right - left, bottom - top)
        if self.scale == 1:
            return width, height
        width, height = max(1, round(width * self.scale)), max(1, round(height * self.scale))
        # Rounding a side of a few pixels may push a thin picture over the limit it was just within.
        return spec.fit(min(width, spec.max_aspect * height), min(height, spec.max_aspect * width))

    def tokens(self, spec: VisionSpec) -> int:
        """Visual tokens the view costs."""
        return spec.tokens(*self.size(spec))

    def covers(self, other: View, spec: VisionSpec | None = None) -> bool:
        """Whether this view already shows everything `other` would: same image, all of its part, at least as finely.

        Args:
            other: The view that is asked for.
            spec: With it, fineness is what is really rendered, in pixels per original pixel and never more than one
                (small images are not reduced, very large ones always are). Without it, the scales are compared.
        """
        if self.ref.sha256 != other.ref.sha256 or not (self.region or _WHOLE).contains(other.region or _WHOLE):
            return False
        if spec is None:
            return self.scale >= other.scale
        return self._fineness(spec) >= _AS_FINE * other._fineness(spec)

    def _fineness(self, spec: VisionSpec) -> float:
        """Rendered pixels per original pixel along a side, at most 1: enlarging shows nothing new."""
        left, top, right, bottom = self.box
        width, height = self.size(spec)
        return min(1.0, math.sqrt((width * height) / ((right - left) * (bottom - top))))


@lru_cache(maxsize=4096)  # every node of a graph and every call of a model reads the same few references
def _parsed(url: str) -> tuple[str, float, Region | None]:
    match = _URL.fullmatch(url)
    expected = "expected vtimg://sha256/<64 hex digits>, ?region=x1,y1,x2,y2 and scale=0.5 as needed"
    if match is None:
        raise ImageRefused(f"not an image reference: {url[:160]!r}; {expected}")
    sha256, box, scale = match.groups()
    try:
        region = Region(*(int(number[:5]) for number in box.split(","))) if box else None
        view = View(ImageRef(sha256, 1, 1, ""), float(scale or 1), region)
    except (RegionError, ValueError) as error:
        raise ImageRefused(f"not an image reference: {url[:160]!r} ({error})") from None
    if view.url != url:
        raise ImageRefused(f"not an image reference: {url[:160]!r}; expected it as {view.url!r}")
    return sha256, view.scale, view.region


def is_reference(block: object) -> bool:
    """Whether a content block claims to be one of our image references; `View.from_block` tells whether it is right."""
    if not isinstance(block, Mapping) or block.get("type") != "image":
        return False
    url = block.get("url")
    return isinstance(url, str) and url.startswith("vtimg:")


class ViewRenderer:
    """Turns views into pixels, keeping the latest ones; equal views are rendered once even when threads ask together.

    Args:
        store: Where the originals are.
        spec: The model family's sizes.
        cache_size: Bytes of rendered pixels to keep (3 a pixel).
    """

    def __init__(self, store: ImageStore, spec: VisionSpec, *, cache_size: int = 256 * 2**20) -> None:
        self.store = store
        self.spec = spec
        self.cache_size = cache_size
        self._lock = threading.Lock()
        self._views: OrderedDict[View, Future[Image.Image]] = OrderedDict()
        self._bytes = 0

    def render(self, view: View) -> Image.Image:
        """The view as an RGB image of exactly `view.size(spec)`; the caller's own copy.

        The same view of the same bytes always gives the same pixels. Whole views of a JPEG are decoded at reduced
        scale; a region is cropped from the original decoded in full, then resized.

        Raises:
            ImageNotFound, ImageTampered, UnreadableImage, ImageTooLarge: The original cannot be had or used.
        """
        with self._lock:
            future = self._views.get(view)
            mine = future is None
            if future is None:
                future = self._views[view] = Future()
            self._views.move_to_end(view)
        if mine:
            try:
                future.set_result(self._render(view))
            except BaseException as error:
                with self._lock:
                    del self._views[view]
                future.set_exception(error)
                raise
            self._trim(added=_weight(future.result()))
        return future.result().copy()

    def _render(self, view: View) -> Image.Image:
        size = view.size(self.spec)
        data = self.store.get(view.ref.sha256)
        if view.region is None:
            hint = (size[0] - int(size[0] * _DRAFT_SLACK), size[1] - int(size[1] * _DRAFT_SLACK))
            image = decode(data, limits=self.store.limits, size_hint=hint)
        else:
            image = decode(data, limits=self.store.limits).crop(view.box)
        if image.size == size:
            return image
        drafted = view.region is None and image.size != (view.ref.width, view.ref.height)
        if drafted and all(abs(have - want) < _CLOSE * want for have, want in zip(image.size, size, strict=True)):
            return _corrected(image, size)
        return image.resize(size, Image.Resampling.BICUBIC)

    def _trim(self, added: int) -> None:
        """Counts a fresh view and drops the least recently used that no longer fit; views being rendered stay."""
        with self._lock:
            self._bytes += added
            if self._bytes <= self.cache_size:
                return
            for view, future in list(self._views.items()):
                if self._bytes <= self.cache_size:
                    break
                if future.done():
                    del self._views[view]
                    self._bytes -= _weight(future.result())


def _corrected(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A drafted JPEG at its view's size, a few percent away: there the cheaper filter loses nothing one can see.

    Off the grid this takes nearly as long as the drafting, so it is done in bands on two threads; Pillow computes
    without Python's lock, and a band sees its neighbours' pixels, so no seam shows.
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
    return 3 * image.width * image.height


def data_url(image: Image.Image) -> str:
    """The picture as a `data:image/png;base64,…` URL, for servers that take pixels in the request."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)  # lossless either way; the time goes into compressing
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
