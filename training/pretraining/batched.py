"""The forward pass of a Qwen3-VL over many equal-sized pages at once, equal to transformers' own and faster on CPU.

transformers runs vision attention image by image on CPU and its patch embedding as a 3-D convolution. Pages of one
size need neither: attention is one batched call, and the patch embedding one matrix product. Attention is written
out, because PyTorch's fused kernel for CPU is slower than plain products in its backward pass once these run in
bfloat16.
"""

from __future__ import annotations

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
    """(B, 3, H, W) uint8 → (B, patches, 3 · patch²) in [-1, 1], in the order that merging expects."""
    b, c, h, w = pixels.shape
    x = pixels.float().div_(127.5).sub_(1.0)
    x = x.view(b, c, h // (patch * merge), merge, patch, w // (patch * merge), merge, patch)
    return x.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(b, -1, c * patch * patch)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention over (B, heads, T, D); `mask` is True where a query may look."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return F.softmax(scores, -1, dtype=scores.dtype) @ v


def _language_attention(
    module: torch.nn.Module, q: Tensor, k: Tensor, v: Tensor, attention_mask: Tensor | None, **_: object
) -> tuple[Tensor, None]:
    return attend(q, k, v, attention_mask).transpose(1, 2), None


ATTENTION = "vtagent_packed"
ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _language_attention)


def encode_pages(visual: Any, pixels: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 → visual tokens (B, tokens, language width). `visual` is a `Qwen3VLVisionModel`."""
    config = visual.config
    patch, merge = config.patch_size, config.spatial_merge_size
    b, _, h, w = pixels.shape
    grid = torch.tensor([[1, h // patch, w // patch]])
    indices, weights = get_vision_interpolation_indices_and_weights(
        grid,
        num_grid_per_side=visual.num_grid_per_side,
        mode=visual.interpolation_mode,
        align_corners=visual.interpolation_align_corners,
        spatial_merge_size=merge,
    )
    position = (visual.pos_embed(indices) * weights[:, :, None]).sum(1)
    # A still image fills both frames of the temporal patch, so their weights add up.
    kernel = visual.patch_embed.proj.weight.sum(2).flatten(1)
    x = F.linear(patchify(pixels, patch, merge), kernel, visual.patch_embed.proj.bias) + position
    cos, sin = visual.rotary_pos_emb(x, get_vision_position_ids(grid, merge))
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


def hidden_states(model: Qwen3VLForConditionalGeneration, batch: PackedBatch, images: list[Tensor]) -> Tensor:
    """Language-model states (B, T, width). `images` are visual tokens (B, n, width), in their order in each row."""
    language = model.model.language_model
    embedded = language.embed_tokens(batch.ids)
    features = torch.cat(images, 1).to(embedded.dtype)
    embedded = embedded.masked_scatter((batch.ids == model.config.image_token_id)[..., None], features)
    states: Tensor = language(
        inputs_embeds=embedded, attention_mask=batch.attend, position_ids=batch.positions, use_cache=False
    ).last_hidden_state
    return states


def packed_loss(model: Qwen3VLForConditionalGeneration, batch: PackedBatch, hidden: Tensor) -> Tensor:
    """Weighted mean cross-entropy over the learned tokens; a scalar."""
    logits = F.linear(hidden, model.lm_head.weight).float()
    losses = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none", ignore_index=IGNORED)
    weights = batch.weights.flatten()
    return (losses * weights).sum() / weights.sum()
