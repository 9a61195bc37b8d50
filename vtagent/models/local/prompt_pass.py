"""The language model's forward pass over prompts, of which only the last tokens' outputs are wanted.

Every layer writes the KV of all tokens, but past the last layer's KV a prompt goes on with its last token alone: in a
model of a few layers that is a good part of the work. The stock modules and their weights are used as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from vtagent.models.local.kv_cache import KVRows
from vtagent.models.local.rotary import rotated


class PromptPass:
    """A callable over `text`, the language model of a Qwen3-VL or Qwen2.5-VL, writing to `kv`."""

    def __init__(self, text: Any, kv: KVRows) -> None:
        self._text, self._kv = text, kv
        self._attend: Any = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def __call__(
        self,
        embeds: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor,
        ends: tuple[torch.Tensor, torch.Tensor],
        visual: torch.Tensor | None = None,
        deepstack: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Compute tokens of several rows, which `KVRows.address` was told about.

        Args:
            embeds: (rows, queries, hidden).
            positions: (3, rows, queries), rotary.
            mask: (rows, 1, queries, columns), True or 0 where a token may look.
            ends: The rows that end here, and the place of the last token of each: (n,), (n,).
            visual: (rows, queries), True on visual tokens, for families whose first layers add to these …
            deepstack: … these features, (visual tokens, hidden) for each of those layers.

        Returns:
            (n, hidden), ready for the head.
        """
        cosines, sines = (part[:, :, None] for part in self._text.rotary_emb(embeds, positions))
        rows, places = ends
        x = embeds
        last = len(self._text.layers) - 1
        for number, layer in enumerate(self._text.layers):
            attention = layer.self_attn
            h = layer.input_layernorm(x)
            k = rotated(_heads(attention, "k", h), cosines, sines)
            keys, values = self._kv.update(k.transpose(1, 2), _heads(attention, "v", h).transpose(1, 2), number)
            if number == last and len(deepstack or ()) <= last:  # nothing is added to visual tokens any more
                if not len(rows):
                    return x[rows, places]
                x, h, cosines, sines = (part[rows, places][:, None] for part in (x, h, cosines, sines))
                mask = mask[rows, :, places][:, :, None]
                if len(rows) < len(keys):
                    keys, values = keys[rows], values[rows]
                rows, places = torch.arange(len(rows), device=x.device), torch.zeros_like(places)
            q = rotated(_heads(attention, "q", h), cosines, sines).transpose(1, 2)
            mixed, _ = self._attend(attention, q, keys, values, mask, dropout=0.0, scaling=attention.scaling)
            x = x + attention.o_proj(mixed.flatten(2))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
            if visual is not None and deepstack is not None and number < len(deepstack):
                x[visual] += deepstack[number].to(x.dtype)
        out: torch.Tensor = self._text.norm(x[rows, places])
        return out


def _heads(attention: Any, which: str, x: torch.Tensor) -> torch.Tensor:
    """Queries, keys or values, (rows, queries, heads, head_dim), normalised in families that do so."""
    out = getattr(attention, f"{which}_proj")(x).unflatten(-1, (-1, attention.head_dim))
    norm = getattr(attention, f"{which}_norm", None)
    heads: torch.Tensor = out if norm is None else norm(out)
    return heads
