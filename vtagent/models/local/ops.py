"""Tensor operations that the vision tower, the decoder and the trainer share.

Importing this module registers `segment_attention` with transformers, under the name `ATTENTION`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.vision_utils import get_vision_interpolation_indices_and_weights

ATTENTION = "vtagent_flash_segments"
"""transformers gives attentions with "flash" in their name the packed sequence; for others it loops over images."""


def rotated(x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Apply rotary positions (RoFormer, arXiv:2104.09864): rotate pair (i, i + head_dim / 2) of every vector.

    It reads and writes memory twice; the usual formula with a rotated copy takes more passes.

    Args:
        x: (…, head_dim), floating point.
        cosines: (…, head_dim), broadcast over `x`; same dtype.
        sines: As `cosines`.

    Returns:
        Shape and dtype of `x`.
    """
    half = x.shape[-1] // 2
    out = x * cosines
    out[..., :half].addcmul_(x[..., half:], sines[..., :half], value=-1)
    out[..., half:].addcmul_(x[..., :half], sines[..., half:])
    return out


def project_patches(proj: Any, patches: torch.Tensor) -> torch.Tensor:
    """A vision tower's patch embedding as a matrix product.

    The stock module is a 3-D convolution whose kernel covers a whole patch, which is the same and far slower.

    Args:
        proj: The convolution, `visual.patch_embed.proj`.
        patches: (…, patch_dim), floating point.

    Returns:
        (…, hidden), in the dtype of the weights.
    """
    return linear(patches.to(proj.weight.dtype), proj.weight.flatten(1), proj.bias)


class PatchProjection(torch.nn.Module):
    """Replaces a vision tower's patch embedding by `project_patches`.

    Shares the weights of the stock module, under the same names.

    Args:
        stock: The module to replace, `visual.patch_embed`.
    """

    def __init__(self, stock: Any) -> None:
        super().__init__()
        self.proj = stock.proj

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Embed patches.

        Args:
            patches: (patches, patch_dim), floating point.

        Returns:
            (patches, hidden), in the dtype of the weights.
        """
        return project_patches(self.proj, patches)


def learned_positions(visual: Any, grid: torch.Tensor) -> torch.Tensor:
    """Position embeddings of the patches of one size of image, interpolated from the learned square grid.

    Args:
        visual: The vision tower of a family with learned positions (Qwen3-VL).
        grid: (1, 3) int64: frames, rows and columns of patches.

    Returns:
        (patches, hidden), in the order of the image processor (merged patches side by side) and the dtype that the
        embeddings and the float32 interpolation weights promote to.
    """
    indices, weights = get_vision_interpolation_indices_and_weights(
        grid,
        num_grid_per_side=visual.num_grid_per_side,
        mode=visual.interpolation_mode,
        align_corners=visual.interpolation_align_corners,
        spatial_merge_size=visual.spatial_merge_size,
    )
    positions: torch.Tensor = (visual.pos_embed(indices) * weights[:, :, None]).sum(1)
    return positions


def segments_by_length(bounds: list[int]) -> dict[int, list[int]]:
    """Start of each segment of a packed sequence, grouped by length; empty segments are left out.

    Args:
        bounds: Where each segment starts, and the end.
    """
    starts: dict[int, list[int]] = {}
    for start, end in pairwise(bounds):
        if end > start:
            starts.setdefault(end - start, []).append(start)
    return starts


def segment_places(starts: list[int], length: int, device: torch.device) -> torch.Tensor:
    """Places in the packed sequence of segments of one length.

    Args:
        starts: Where each segment starts.
        length: Their length.
        device: Of the result.

    Returns:
        (segments, length) int64.
    """
    return torch.tensor(starts, device=device)[:, None] + torch.arange(length, device=device)


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
    """Attention inside the segments of a packed sequence, with one call for all segments of equal length.

    It has the signature of transformers' attention functions, and supports gradients.

    Args:
        module: Not used.
        query: (1, heads, patches, head_dim), floating point.
        key: As `query`.
        value: As `query`.
        attention_mask: Not used; the segments say what is attended to.
        cu_seq_lens_q: (segments + 1,) int32: where each segment starts, and the end.
        scaling: Factor of the scores; 1 / sqrt(head_dim) if absent.
        dropout: Probability to drop an attention weight.
        **kwargs: Not used.

    Returns:
        (1, patches, heads, head_dim) in the dtype of `query`, and None for the attention weights.
    """
    by_length = segments_by_length(cu_seq_lens_q.tolist())
    if len(by_length) == 1:  # equal segments are adjacent, so only the shape changes
        (length,) = by_length
        q, k, v = (part[0].unflatten(1, (-1, length)).transpose(0, 1) for part in (query, key, value))
        out = scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling)
        return out.transpose(1, 2).flatten(0, 1)[None], None
    parts, order = [], []
    for length, starts in by_length.items():
        places = segment_places(starts, length, query.device)
        q, k, v = (part[0, :, places].transpose(0, 1) for part in (query, key, value))  # (segments, heads, length, dim)
        out = scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling)
        parts.append(out.transpose(1, 2).flatten(0, 1))  # (segments * length, heads, dim)
        order.append(places.flatten())
    return torch.cat(parts)[torch.cat(order).argsort()][None], None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, segment_attention)
