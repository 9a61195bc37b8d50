"""Rotary positions, applied in two passes over memory."""

from __future__ import annotations

import torch


def rotated(x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Each vector of the last dimension turned by its angles, its halves being the two coordinates.

    Args:
        x: (…, head_dim).
        cosines: (…, head_dim), to be broadcast over `x`.
        sines: As `cosines`.
    """
    half = x.shape[-1] // 2
    out = x * cosines
    out[..., :half].addcmul_(x[..., half:], sines[..., :half], value=-1)
    out[..., half:].addcmul_(x[..., :half], sines[..., half:])
    return out
