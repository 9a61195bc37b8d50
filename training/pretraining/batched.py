"""The forward pass of a Qwen3-VL over many pages of one size, with gradients: transformers' numbers, faster on a CPU.

On a CPU, transformers runs vision attention image by image, and the patch embedding as a 3-D convolution. For pages of
one size, attention is one batched call and the patch embedding one matrix product. In bfloat16 on a CPU, attention
is written out, because there the backward pass of PyTorch's fused kernel is slower than plain products. Importing this
module registers that attention with transformers, under the name `ATTENTION`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen3_vl.modeling_qwen3_vl import rotate_half
from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids

from vtagent.training.pretraining.packing import IGNORED, PackedBatch


def patchify(pixels: Tensor, patch: int, merge: int) -> Tensor:
    """Cut images into patches, in the order that merging expects.

    Args:
        pixels: (images, 3, height, width) uint8.
        patch: Side of a patch, in pixels.
        merge: Patches per side that are merged into one visual token.

    Returns:
        (images, patches, 3 * patch ** 2) float32 in [-1, 1].
    """
    b, c, h, w = pixels.shape
    x = pixels.float().div_(127.5).sub_(1.0)
    x = x.view(b, c, h // (patch * merge), merge, patch, w // (patch * merge), merge, patch)
    return x.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(b, -1, c * patch * patch)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention.

    Args:
        q: (batch, heads, tokens, head_dim), floating point.
        k: As `q`.
        v: As `q`.
        mask: Bool, broadcast over (batch, heads, tokens, tokens): True where a query may attend.

    Returns:
        (batch, heads, tokens, head_dim), in the dtype of `q`.
    """
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(q, k, v, mask)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return F.softmax(scores, -1, dtype=scores.dtype) @ v


def _language_attention(
    module: torch.nn.Module, q: Tensor, k: Tensor, v: Tensor, attention_mask: Tensor | None, **_: object
) -> tuple[Tensor, None]:
    """`attend` with the signature of transformers' attention functions.

    Args:
        module: Not used.
        q: (batch, heads, tokens, head_dim), floating point.
        k: As `q`.
        v: As `q`.
        attention_mask: (batch, 1, tokens, tokens) bool: True where a query may attend.
        **_: Not used.

    Returns:
        (batch, tokens, heads, head_dim) in the dtype of `q`, and None for the attention weights.
    """
    return attend(q, k, v, attention_mask).transpose(1, 2), None


ATTENTION = "vtagent_packed"
"""Name of the language model's attention, for `attn_implementation`."""

ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _language_attention)


def encode_pages(visual: Any, pixels: Tensor) -> Tensor:
    """Encode pages of one size.

    Args:
        visual: A `Qwen3VLVisionModel`.
        pixels: (pages, 3, height, width) uint8.

    Returns:
        Visual tokens (pages, visual tokens, language hidden), in the dtype of the weights (or of autocast).
    """
    config = visual.config
    patch, merge = config.patch_size, config.spatial_merge_size
    b, _, h, w = pixels.shape
    places, indices, weights = _geometry(
        h // patch,
        w // patch,
        merge,
        visual.num_grid_per_side,
        visual.interpolation_mode,
        visual.interpolation_align_corners,
        pixels.device,
    )
    # A still image fills both frames of a temporal patch, so the weights of the two frames are added.
    kernel = visual.patch_embed.proj.weight.sum(2).flatten(1)
    x = F.linear(patchify(pixels, patch, merge), kernel, visual.patch_embed.proj.bias)
    x = x + (visual.pos_embed(indices) * weights[:, :, None]).sum(1)
    cos, sin = visual.rotary_pos_emb(x, places)
    for block in visual.blocks:
        attention = block.attn
        qkv = attention.qkv(block.norm1(x)).view(b, -1, 3, attention.num_heads, attention.head_dim)
        q, k, v = qkv.unbind(2)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        q, k = (t * cos.to(t.dtype) + rotate_half(t) * sin.to(t.dtype) for t in (q, k))
        mixed = attend(q, k, v).transpose(1, 2).reshape(b, -1, attention.dim)
        x = x + attention.proj(mixed)
        x = x + block.mlp(block.norm2(x))
    merged: Tensor = visual.merger(x)
    return merged.view(b, -1, config.out_hidden_size)


def encode_views(visual: Any, views: Sequence[Tensor]) -> list[Tensor]:
    """Encode the views of a batch, those of one size together.

    Args:
        visual: A `Qwen3VLVisionModel`.
        views: (rows, 3, height, width) uint8 each.

    Returns:
        Visual tokens of each view, as `encode_pages` returns them.
    """
    encoded: dict[int, Tensor] = {}
    for size in dict.fromkeys(view.shape for view in views):
        places = [i for i, view in enumerate(views) if view.shape == size]
        together = encode_pages(visual, torch.cat([views[i] for i in places]))
        encoded |= zip(places, together.chunk(len(places)), strict=True)
    return [encoded[i] for i in range(len(views))]


@lru_cache(maxsize=64)
def _geometry(
    rows: int, columns: int, merge: int, side: int, mode: str, align: bool, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """What depends on the size of an image alone.

    Returns:
        The row and column of each patch, (patches, 2) int64; the places of its position in the learned grid and their
        weights, (patches, taps) int64 and float32.
    """
    grid = torch.tensor([[1, rows, columns]])
    indices, weights = get_vision_interpolation_indices_and_weights(
        grid, num_grid_per_side=side, mode=mode, align_corners=align, spatial_merge_size=merge
    )
    places = get_vision_position_ids(grid, merge)
    return places.to(device), indices.to(device), weights.to(device)


def hidden_states(model: Qwen3VLForConditionalGeneration, batch: PackedBatch, images: list[Tensor]) -> Tensor:
    """The language model's last hidden states.

    Args:
        model: The model.
        batch: The packed rows.
        images: (rows, visual tokens, hidden) each, floating point, in their order in the rows.

    Returns:
        (rows, tokens, hidden), in the dtype of the weights.
    """
    language = model.model.language_model
    embedded = language.embed_tokens(batch.ids)
    features = torch.cat(images, 1).to(embedded.dtype)
    embedded = embedded.masked_scatter((batch.ids == model.config.image_token_id)[..., None], features)
    states: Tensor = language(
        inputs_embeds=embedded, attention_mask=batch.attend(), position_ids=batch.positions, use_cache=False
    ).last_hidden_state
    return states


def packed_loss(model: Qwen3VLForConditionalGeneration, batch: PackedBatch, hidden: Tensor) -> Tensor:
    """Weighted mean cross-entropy over the learned tokens.

    Args:
        model: The model; its head gives the logits.
        batch: The packed rows, with targets and weights.
        hidden: (rows, tokens, hidden), floating point: from `hidden_states`.

    Returns:
        () float32.
    """
    logits = F.linear(hidden, model.lm_head.weight).float()
    losses = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none", ignore_index=IGNORED)
    weights = batch.weights.flatten()
    return (losses * weights).sum() / weights.sum()
