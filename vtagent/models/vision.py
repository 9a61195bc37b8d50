"""Encode images to visual tokens: each image once, equal-sized ones through one attention call, results kept by key."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from vtagent.models.engine import EngineImage
from vtagent.models.placeholders import identity

if TYPE_CHECKING:
    from vtagent.models.processor import VLProcessor

ATTENTION = "vtagent_flash_segments"
"""transformers gives attentions with "flash" in their name the packed sequence; for others it loops over images."""

_MAX_PATCHES = {"cpu": 4096, "cuda": 65536}
"""At most so many patches go through the vision tower at once: what fits a CPU's caches, or fills a GPU."""


def segment_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    cu_seq_lens_q: torch.Tensor,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention inside the segments of a packed sequence, segments of equal length in one call.

    Args:
        query: (1, heads, patches, head_dim), as are key and value.
        cu_seq_lens_q: (segments + 1,) where each segment starts, and the end.

    Returns:
        (1, patches, heads, head_dim).
    """
    bounds = cu_seq_lens_q.tolist()
    by_length: dict[int, list[int]] = {}
    for start, end in pairwise(bounds):
        by_length.setdefault(end - start, []).append(start)
    if len(by_length) == 1:  # equal segments side by side: only the shape changes
        (length,) = by_length
        q, k, v = (part[0].unflatten(1, (-1, length)).transpose(0, 1) for part in (query, key, value))
        out = scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling)
        return out.transpose(1, 2).flatten(0, 1)[None], None
    parts, order = [], []
    for length, starts in by_length.items():
        index = torch.tensor(starts, device=query.device)[:, None] + torch.arange(length, device=query.device)
        q, k, v = (part[0, :, index].transpose(0, 1) for part in (query, key, value))  # (segments, heads, length, dim)
        out = scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling)
        parts.append(out.transpose(1, 2).flatten(0, 1))  # (segments * length, heads, dim)
        order.append(index.flatten())
    return torch.cat(parts)[torch.cat(order).argsort()][None], None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, segment_attention)


class PatchProjection(torch.nn.Module):
    """The tower's patch embedding as the matrix product that it is: a 3-D convolution with one output is far slower.

    Shares the convolution's weights, under the same names.
    """

    def __init__(self, stock: Any) -> None:
        super().__init__()
        self.proj = stock.proj

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """(patches, patch_dim) to (patches, hidden)."""
        return linear(patches.to(self.proj.weight.dtype), self.proj.weight.flatten(1), self.proj.bias)


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
        self._model = model
        self._processor = processor
        self._max_tokens = max_tokens
        self._cache: OrderedDict[str, ImageFeatures] = OrderedDict()
        self.tokens = 0
        self.encoded = 0
        """Images that went through the tower so far."""
        if model.visual.config._attn_implementation in ("sdpa", "eager"):
            model.visual.config._attn_implementation = ATTENTION
        if not isinstance(model.visual.patch_embed, PatchProjection):
            model.visual.patch_embed = PatchProjection(model.visual.patch_embed)

    def clear(self) -> None:
        """Forget all features, as is needed when the weights have changed."""
        self._cache.clear()
        self.tokens = 0

    def encode(self, images: Sequence[EngineImage]) -> dict[str, ImageFeatures]:
        """Features by image identity; equal images are encoded once, those seen before not at all."""
        wanted = {identity(image): image for image in images}
        found = {key: self._cache[key] for key in wanted if key in self._cache}
        for key in found:
            self._cache.move_to_end(key)
        limit = _MAX_PATCHES.get(self._model.device.type, _MAX_PATCHES["cpu"])
        batch: list[EngineImage] = []
        patches = 0
        for image in sorted((own for key, own in wanted.items() if key not in found), key=lambda own: own.pixels.size):
            own = (image.pixels.width // self._processor.vision.patch_size) * (
                image.pixels.height // self._processor.vision.patch_size
            )
            if batch and patches + own > limit:
                found |= self._encode(batch)
                batch, patches = [], 0
            batch.append(image)
            patches += own
        if batch:
            found |= self._encode(batch)
        return found

    def _encode(self, images: Sequence[EngineImage]) -> dict[str, ImageFeatures]:
        pixels, grids = self._processor.pixels([image.pixels for image in images])
        device = self._model.device
        out = self._model.get_image_features(pixels.to(device), grids.to(device), return_dict=True)
        deepstack = getattr(out, "deepstack_features", None) or []
        self.encoded += len(images)
        features = {}
        for row, image in enumerate(images):
            own = ImageFeatures(
                embeds=out.pooler_output[row].clone(), deepstack=tuple(layer[row].clone() for layer in deepstack)
            )
            features[identity(image)] = self._cache[identity(image)] = own
            self.tokens += own.embeds.shape[0]
        while self.tokens > self._max_tokens and self._cache:
            _, gone = self._cache.popitem(last=False)
            self.tokens -= gone.embeds.shape[0]
        return features
