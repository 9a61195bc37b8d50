"""The forward pass of a Qwen vision tower over still images of one size: the stock pass's numbers, far faster.

The stock pass takes images of any sizes, and videos, as one packed sequence. Images of one size form a plain batch:
attention is one call, and what depends on the size alone (positions, rotations, windows) is computed once per size.
The stock modules and weights are used unchanged. The pass is for inference.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

from vtagent.models.families import Family
from vtagent.models.local.ops import learned_positions, project_patches, rotated, segment_places, segments_by_length

_SIZES = 64
"""Image sizes whose tables are kept. Cameras and scanners produce few; a table is as large as an image's patches."""


@dataclass(frozen=True)
class _SizeTables:
    """What depends on the size of the images alone."""

    cosines: torch.Tensor
    """(patches, 1, 1, head_dim) float32."""
    sines: torch.Tensor
    """(patches, 1, 1, head_dim) float32."""
    positions: torch.Tensor | None
    """(patches, hidden) in the dtype of the weights, added to the patches by families with learned positions."""
    order: torch.Tensor | None
    """(patches,) int64: the order in which families with window attention compute."""
    back: torch.Tensor | None
    """(visual tokens,) int64: restores the order after merging."""
    windows: tuple[torch.Tensor, ...]
    """For each length that windows have, the places of the patches: (windows, patches of one window) int64."""


class VisionTower:
    """A callable over a model's vision tower.

    Args:
        visual: The vision tower of a transformers model.
        family: The model's family.
    """

    def __init__(self, visual: Any, family: Family) -> None:
        self._visual = visual
        self._family = family
        self._deepstack_layers: list[int] = list(visual.deepstack_visual_indexes) if family.deepstack else []
        self._tables = lru_cache(_SIZES)(partial(_size_tables, visual, family))

    def clear(self) -> None:
        """Drop what was computed from the weights. Call it when they have changed."""
        self._tables.cache_clear()

    def __call__(self, patches: torch.Tensor, rows: int, columns: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Encode images of one size.

        Args:
            patches: (images, rows * columns, patch_dim), floating point, in the order of the image processor.
            rows: Patches from top to bottom.
            columns: Patches from left to right.

        Returns:
            Visual tokens (images, visual tokens, language hidden), and the same for each of the decoder's first layers
            that the family feeds as well (deepstack); all in the dtype of the weights.
        """
        visual, images = self._visual, len(patches)
        tables = self._tables(rows, columns)
        x = project_patches(visual.patch_embed.proj, patches)
        if tables.positions is not None:
            x += tables.positions
        if tables.order is not None:
            x = x[:, tables.order]
        deepstack = []
        for number, block in enumerate(visual.blocks):
            windowed = self._family.window_attention and number not in visual.fullatt_block_indexes
            x += _attention(block.attn, block.norm1(x), tables, tables.windows if windowed else ())
            x += block.mlp(block.norm2(x))
            if number in self._deepstack_layers:
                merger = visual.deepstack_merger_list[self._deepstack_layers.index(number)]
                deepstack.append(merger(x).unflatten(0, (images, -1)))
        merged: torch.Tensor = visual.merger(x).unflatten(0, (images, -1))
        return merged if tables.back is None else merged[:, tables.back], deepstack


def _size_tables(visual: Any, family: Family, rows: int, columns: int) -> _SizeTables:
    """The tables for one size in patches, computed by transformers' own functions for one image.

    `_SizeTables` has their shapes and dtypes.
    """
    merge, weight = visual.spatial_merge_size, visual.patch_embed.proj.weight
    grid = torch.tensor([[1, rows, columns]], device=weight.device)
    positions, order, back = None, None, None
    windows: tuple[torch.Tensor, ...] = ()
    if family.learned_positions:
        positions = learned_positions(visual, grid).to(weight.dtype)
    cosines, sines = visual.rotary_pos_emb(weight, get_vision_position_ids(grid, merge))
    if family.window_attention:
        groups, bounds = get_vision_window_index(
            grid, spatial_merge_size=merge, window_size=visual.window_size, patch_size=visual.patch_size
        )
        order = (groups[:, None] * merge**2 + torch.arange(merge**2, device=groups.device)).flatten()
        back = groups.argsort()
        cosines, sines = cosines[order], sines[order]
        by_length = segments_by_length(bounds.tolist())
        windows = tuple(segment_places(starts, length, weight.device) for length, starts in by_length.items())
    return _SizeTables(cosines[:, None, None].float(), sines[:, None, None].float(), positions, order, back, windows)


def _attention(module: Any, x: torch.Tensor, tables: _SizeTables, windows: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """One layer's attention, over each whole image or inside windows.

    Args:
        module: The layer's attention module.
        x: (images, patches, hidden), in the dtype of the weights.
        tables: For the size of the images.
        windows: For each length of window (windows, patches of one window) int64; empty for whole images.

    Returns:
        Shape and dtype of `x`.
    """
    qkv = module.qkv(x).unflatten(-1, (3, module.num_heads, -1))  # (images, patches, 3, heads, head_dim)
    qk = qkv[:, :, :2]
    # The stock pass also rotates in float32.
    q, k = rotated(qk.float(), tables.cosines, tables.sines).to(qk.dtype).unbind(2)
    v = qkv[:, :, 2]
    if not windows:
        mixed = _attend(q, k, v, module.scaling)
    else:
        mixed = torch.empty_like(q)
        for places in windows:
            own_q, own_k, own_v = (part[:, places].flatten(0, 1) for part in (q, k, v))
            inside = _attend(own_q, own_k, own_v, module.scaling)
            mixed[:, places] = inside.unflatten(0, (len(x), -1))
    out: torch.Tensor = module.proj(mixed.flatten(2))
    return out


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float) -> torch.Tensor:
    """Softmax attention without a mask.

    Args:
        q: (batch, patches, heads, head_dim), floating point.
        k: As `q`.
        v: As `q`.
        scaling: Factor of the scores.

    Returns:
        Shape and dtype of `q`.
    """
    out = scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), scale=scaling)
    return out.transpose(1, 2)
