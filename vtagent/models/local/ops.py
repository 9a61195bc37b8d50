"""Quicker parts for the stock vision tower's own forward pass, whose images are packed into one sequence.

For who needs that pass, gradients included; to encode images alone, `vtagent.models.local.tower` is faster still.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

ATTENTION = "vtagent_flash_segments"
"""transformers gives attentions with "flash" in their name the packed sequence; for others it loops over images."""


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
