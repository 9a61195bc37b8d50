"""Encode images to visual tokens: each image once, equal-sized ones in one batch, results kept by key."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch

from vtagent.models.engine import EngineImage
from vtagent.models.local.tower import Tower
from vtagent.models.placeholders import identity

if TYPE_CHECKING:
    from vtagent.models.processor import VLProcessor

_MAX_PATCHES = {"cpu": 2048, "cuda": 65536}
"""At most so many patches go through the vision tower at once: what fits a CPU's caches, or fills a GPU."""


@dataclass(frozen=True)
class ImageFeatures:
    """What the decoder needs of one image."""

    embeds: torch.Tensor
    """(visual tokens, hidden)."""
    deepstack: tuple[torch.Tensor, ...]
    """For the first decoder layers, each (visual tokens, hidden); empty for families without."""


class VisionEncoder:
    """The vision tower of a model with a cache in front, bounded by visual tokens, least recently used out first."""

    def __init__(self, model: Any, processor: VLProcessor, *, max_tokens: int) -> None:
        self._tower = Tower(model.visual)
        self._device: torch.device = model.device
        self._processor = processor
        self._max_tokens = max_tokens
        self._cache: OrderedDict[str, ImageFeatures] = OrderedDict()
        self.tokens = 0
        self.encoded = 0
        """Images that went through the tower so far."""

    def clear(self) -> None:
        """Forget all features, as is needed when the weights have changed."""
        self._cache.clear()
        self._tower.clear()
        self.tokens = 0

    def encode(self, images: Sequence[EngineImage]) -> dict[str, ImageFeatures]:
        """Features by image identity; equal images are encoded once, those seen before not at all."""
        wanted = {identity(image): image for image in images}
        found = {key: self._cache[key] for key in wanted if key in self._cache}
        for key in found:
            self._cache.move_to_end(key)
        new = [image for key, image in wanted.items() if key not in found]
        for batch in self._batches(new):
            found |= self._encode(batch)
        return found

    def _batches(self, images: Sequence[EngineImage]) -> Iterator[list[EngineImage]]:
        """Images of one size together, as many as go through the tower at once."""
        limit = _MAX_PATCHES.get(self._device.type, _MAX_PATCHES["cpu"])
        for (width, height), own in groupby(sorted(images, key=_size), key=_size):
            same = list(own)
            _, rows, columns = self._processor.vision.grid(width, height)
            room = max(1, limit // (rows * columns))
            yield from (same[start : start + room] for start in range(0, len(same), room))

    def _encode(self, images: Sequence[EngineImage]) -> dict[str, ImageFeatures]:
        pixels, grids = self._processor.pixels([image.pixels for image in images])
        _, rows, columns = grids[0].tolist()
        embeds, deepstack = self._tower(pixels.to(self._device).unflatten(0, (len(images), -1)), rows, columns)
        self.encoded += len(images)
        features = {}
        for row, image in enumerate(images):
            own = ImageFeatures(embeds[row].clone(), tuple(layer[row].clone() for layer in deepstack))
            features[identity(image)] = self._cache[identity(image)] = own
            self.tokens += own.embeds.shape[0]
        while self.tokens > self._max_tokens and self._cache:
            _, gone = self._cache.popitem(last=False)
            self.tokens -= gone.embeds.shape[0]
        return features


def _size(image: EngineImage) -> tuple[int, int]:
    return image.pixels.size
