"""The forward pass of a Qwen vision tower over still images of one size, equal to transformers' own and far faster.

The stock pass takes images of any sizes and videos as one packed sequence. Images of one size are a plain batch:
attention is one call, and what depends on the size alone (positions, rotations, windows) is computed once for it.
The stock modules and their weights are used as they are; nothing in the model is changed. For inference.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
    get_vision_window_index,
)

from vtagent.models.local.rotary import rotated

_SIZES = 64
"""Sizes whose tables are kept: cameras and scanners bring a few, and a table is as large as one image's activations."""


@dataclass(frozen=True)
class _Tables:
    """What a tower needs to know about one size of image."""

    cosines: torch.Tensor
    """(patches, 1, 1, head_dim), as is `sines`."""
    sines: torch.Tensor
    positions: torch.Tensor | None
    """(patches, hidden), added to the patches by families with learned positions."""
    order: torch.Tensor | None
    """(patches,), in which families with windows compute."""
    back: torch.Tensor | None
    """(visual tokens,), which undoes it after merging."""
    windows: tuple[torch.Tensor, ...]
    """Places of the patches of each window, (windows, patches of one), for each length that windows have."""


class Tower:
    """A callable over `visual`, the vision tower of a Qwen3-VL or Qwen2.5-VL."""

    def __init__(self, visual: Any) -> None:
        self._visual = visual
        self._tables: dict[tuple[int, int], _Tables] = {}
        self._full = getattr(visual, "fullatt_block_indexes", None)
        self._deepstack: list[int] = list(getattr(visual, "deepstack_visual_indexes", ()))

    def clear(self) -> None:
        """Forget what was computed from the weights, which have changed."""
        self._tables.clear()

    def __call__(self, patches: torch.Tensor, rows: int, columns: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Encode images.

        Args:
            patches: (images, rows * columns, patch_dim), as the image processor orders them.
            rows: Patches from top to bottom.
            columns: Patches from left to right.

        Returns:
            (images, visual tokens, hidden), and the same for each of the decoder's first layers in families that feed
            these too (deepstack).
        """
        visual, images = self._visual, len(patches)
        tables = self._of(rows, columns)
        kernel = visual.patch_embed.proj  # a 3-D convolution with one place to stand is a matrix product
        x = linear(patches.to(kernel.weight.dtype), kernel.weight.flatten(1), kernel.bias)
        if tables.positions is not None:
            x += tables.positions
        if tables.order is not None:
            x = x[:, tables.order]
        deepstack = []
        for number, block in enumerate(visual.blocks):
            windows = () if self._full is None or number in self._full else tables.windows
            x += _attention(block.attn, block.norm1(x), tables, windows)
            x += block.mlp(block.norm2(x))
            if number in self._deepstack:
                merger = visual.deepstack_merger_list[self._deepstack.index(number)]
                deepstack.append(merger(x).unflatten(0, (images, -1)))
        merged: torch.Tensor = visual.merger(x).unflatten(0, (images, -1))
        return merged if tables.back is None else merged[:, tables.back], deepstack

    def _of(self, rows: int, columns: int) -> _Tables:
        if (rows, columns) not in self._tables:
            if len(self._tables) >= _SIZES:
                self._tables.clear()
            self._tables[rows, columns] = _tables(self._visual, rows, columns)
        return self._tables[rows, columns]


def _tables(visual: Any, rows: int, columns: int) -> _Tables:
    """Computed by transformers' own functions, for one image."""
    merge, weight = visual.spatial_merge_size, visual.patch_embed.proj.weight
    grid = torch.tensor([[1, rows, columns]], device=weight.device)
    positions, order, back = None, None, None
    windows: tuple[torch.Tensor, ...] = ()
    if hasattr(visual, "pos_embed"):
        indices, weights = get_vision_interpolation_indices_and_weights(
            grid,
            num_grid_per_side=visual.num_grid_per_side,
            mode=visual.interpolation_mode,
            align_corners=visual.interpolation_align_corners,
            spatial_merge_size=merge,
        )
        positions = (visual.pos_embed(indices) * weights[:, :, None]).sum(1).to(weight.dtype)
    cosines, sines = visual.rotary_pos_emb(weight, get_vision_position_ids(grid, merge))
    if hasattr(visual, "fullatt_block_indexes"):
        groups, bounds = get_vision_window_index(
            grid, spatial_merge_size=merge, window_size=visual.window_size, patch_size=visual.patch_size
        )
        order = (groups[:, None] * merge**2 + torch.arange(merge**2, device=groups.device)).flatten()
        back = groups.argsort()
        cosines, sines = cosines[order], sines[order]
        windows = _by_length(bounds.tolist(), weight.device)
    return _Tables(cosines[:, None, None].float(), sines[:, None, None].float(), positions, order, back, windows)


def _by_length(bounds: list[int], device: torch.device) -> tuple[torch.Tensor, ...]:
    """The places of the patches between bounds, windows of one length together."""
    starts: dict[int, list[int]] = {}
    for start, end in pairwise(bounds):
        if end > start:
            starts.setdefault(end - start, []).append(start)
    return tuple(
        torch.tensor(own, device=device)[:, None] + torch.arange(length, device=device)
        for length, own in starts.items()
    )


def _attention(module: Any, x: torch.Tensor, tables: _Tables, windows: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """One block's attention, over each whole image or, with `windows`, inside these. (images, patches, hidden)."""
    qkv = module.qkv(x).unflatten(-1, (3, module.num_heads, -1))  # (images, patches, 3, heads, head_dim)
    qk = qkv[:, :, :2]
    q, k = rotated(qk.float(), tables.cosines, tables.sines).to(qk.dtype).unbind(2)  # in float32, as the stock pass
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
    """(images, patches, heads, head_dim), as are the arguments."""
    out = scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), scale=scaling)
    return out.transpose(1, 2)
