"""Encodes images to visual tokens: each image once, images of one size in one batch, with a cache in front."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch

from vtagent.lru import LRU
from vtagent.models.engine import EngineImage
from vtagent.models.families import Family
from vtagent.models.local.vision_tower import VisionTower
from vtagent.models.placeholders import identity

if TYPE_CHECKING:
    from vtagent.models.processor import VLProcessor

_MAX_PATCHES = {"cpu": 2048, "cuda": 65536}
"""Maximum patches in one pass of the vision tower: what fits a CPU's caches, or fills a GPU."""


@dataclass(frozen=True)
class ImageFeatures:
    """What the decoder needs of one image."""

    embeds: torch.Tensor
    """(visual tokens, hidden), in the dtype of the weights."""
    deepstack: tuple[torch.Tensor, ...]
    """For each of the first decoder layers (visual tokens, hidden); empty for families without deepstack."""


class VisionEncoder:
    """The vision tower of a model, with a cache of the features that were used most recently.

    Args:
        model: The model without its head, such as a `Qwen3VLModel`.
        processor: The checkpoint's processor.
        family: The model's family.
        max_tokens: Bound on the cache, in visual tokens.
        max_bytes: Bound on the cache, in bytes.

    Attributes:
        encoded: Images that went through the tower so far.
    """

    def __init__(self, model: Any, processor: VLProcessor, family: Family, *, max_tokens: int, max_bytes: int) -> None:
        self.encoded = 0
        layers = 1 + (len(model.visual.deepstack_visual_indexes) if family.deepstack else 0)
        token_bytes = layers * model.config.text_config.hidden_size * model.dtype.itemsize
        max_tokens = min(max_tokens, max_bytes // token_bytes)
        self._tower = VisionTower(model.visual, family)
        self._device: torch.device = model.visual.patch_embed.proj.weight.device
        self._processor = processor
        self._cache: LRU[str, ImageFeatures] = LRU(max_tokens, size=lambda features: features.embeds.shape[0])

    @property
    def tokens(self) -> int:
        """Visual tokens in the cache."""
        return self._cache.total

    def clear(self) -> None:
        """Drop all features. Call it when the weights have changed."""
        self._cache.clear()
        self._tower.clear()

    def encode(self, images: Sequence[EngineImage]) -> dict[str, ImageFeatures]:
        """Encode images; equal ones once, and cached ones not at all.

        Returns:
            Features by image identity (see `placeholders.identity`): (visual tokens, hidden) tensors in the dtype of
            the weights.
        """
        wanted = {identity(image): image for image in images}
        found = {key: features for key in wanted if (features := self._cache.get(key)) is not None}
        new = [image for key, image in wanted.items() if key not in found]
        for batch in self._batches(new):
            found |= self._encode(batch)
        return found

    def _batches(self, images: Sequence[EngineImage]) -> Iterator[list[EngineImage]]:
        """Batches of images of one size, each within `_MAX_PATCHES` or a single image."""
        limit = _MAX_PATCHES.get(self._device.type, _MAX_PATCHES["cpu"])
        for (width, height), own in groupby(sorted(images, key=_size), key=_size):
            same = list(own)
            _, rows, columns = self._processor.vision.grid(width, height)
            room = max(1, limit // (rows * columns))
            yield from (same[start : start + room] for start in range(0, len(same), room))

    def _encode(self, images: Sequence[EngineImage]) -> dict[str, ImageFeatures]:
        """Encode images of one size, and cache the features.

        Returns:
            As `encode`: (visual tokens, hidden) tensors in the dtype of the weights.
        """
        patches, grids = self._processor.pixels([image.pixels for image in images])
        _, rows, columns = grids[0].tolist()
        embeds, deepstack = self._tower(patches.to(self._device).unflatten(0, (len(images), -1)), rows, columns)
        self.encoded += len(images)
        features = {}
        for place, image in enumerate(images):
            # Copies: a slice would keep the whole batch in memory.
            own = ImageFeatures(embeds[place].clone(), tuple(layer[place].clone() for layer in deepstack))
            features[identity(image)] = own
            self._cache.put(identity(image), own)
        return features


def _size(image: EngineImage) -> tuple[int, int]:
    return image.pixels.size
