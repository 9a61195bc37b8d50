"""The decoder's forward passes over rows of any lengths: prefill what is not cached yet, then one token per row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from vtagent.errors import ModelError
from vtagent.models.engine import EngineImage
from vtagent.models.local.kv_cache import KVRows
from vtagent.models.local.prompt_pass import PromptPass
from vtagent.models.local.sequence import SequenceState
from vtagent.models.local.vision import ImageFeatures
from vtagent.models.placeholders import identity

_CHUNK = 1024
"""Queries per forward pass of a prefill: the attention mask is (rows, queries, columns)."""


class Decoder:
    """The language model of a Qwen vision-language model, writing to KV rows of its own."""

    def __init__(self, model: Any, image_token_id: int, *, deepstack: bool) -> None:
        self._head = model.lm_head
        self._text = model.model.language_model
        self._embed = model.get_input_embeddings()
        self._image_token_id = image_token_id
        self._deepstack = deepstack
        self._device = model.device
        config = model.config.text_config
        self._additive = config._attn_implementation == "eager"
        if config._attn_implementation not in ("sdpa", "eager"):
            raise ModelError(f"attention {config._attn_implementation!r} is not served; load the model with 'sdpa'")
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.kv = KVRows(
            config.num_hidden_layers, config.num_key_value_heads, head_dim, dtype=model.dtype, device=self._device
        )
        self._prompts = PromptPass(self._text, self.kv)

    def prefill(
        self,
        rows: Sequence[SequenceState],
        pieces: Sequence[Sequence[torch.Tensor]],
        features: Mapping[str, ImageFeatures],
        slot: int,
    ) -> torch.Tensor:
        """Compute the prompts of `rows` from their cached length on, into slots `slot`, `slot` + 1, ….

        Args:
            pieces: each row's cached KV.
            features: by image identity, of every image that a row has past its cached length.

        Returns:
            Logits (rows, vocabulary) at each prompt's last token.
        """
        starts = torch.tensor([row.cached for row in rows], device=self._device)
        lengths = [row.prompt - row.cached for row in rows]
        queries = max(lengths)
        self.kv.reserve(slot + len(rows), max(row.cached for row in rows) + queries)
        for place, cached in enumerate(pieces):
            self.kv.load(slot + place, cached)
        ids = torch.zeros((len(rows), queries), dtype=torch.long)
        positions = torch.zeros((3, len(rows), queries), dtype=torch.long)
        for place, row in enumerate(rows):
            ids[place, : lengths[place]] = torch.tensor(row.ids[row.cached : row.prompt])
            positions[:, place, : lengths[place]] = row.positions[:, row.cached :]
        ids, positions = ids.to(self._device), positions.to(self._device)
        is_image = ids == self._image_token_id
        embeds = self._embed(ids)
        new = [own for row in rows if (own := _features(row, features)) is not None]
        deepstack: list[torch.Tensor] = []
        if new:
            embeds[is_image] = torch.cat([own.embeds for own in new]).to(embeds.dtype)
            deepstack = [torch.cat(layer) for layer in zip(*(own.deepstack for own in new), strict=True)]
        last = torch.tensor(lengths, device=self._device) - 1
        final = embeds.new_zeros((len(rows), embeds.shape[-1]))
        for begin in range(0, queries, _CHUNK):
            end = min(begin + _CHUNK, queries)
            columns = starts[:, None] + torch.arange(begin, end, device=self._device)
            self.kv.address(slice(slot, slot + len(rows)), columns, max(row.cached for row in rows) + end)
            visual, order = None, None
            if new and self._deepstack and bool(is_image[:, begin:end].any()):
                visual = is_image[:, begin:end]
                order = is_image.flatten().cumsum(0).view_as(is_image)[:, begin:end][visual] - 1
            ending = torch.nonzero((last >= begin) & (last < end)).flatten()
            final[ending] = self._prompts(
                embeds[:, begin:end],
                positions[:, :, begin:end],
                self._mask(columns, embeds.dtype),
                (ending, last[ending] - begin),
                visual,
                [layer[order] for layer in deepstack] if order is not None else None,
            )
        return self._logits(final)

    def step(self, tokens: torch.Tensor, lengths: torch.Tensor, positions: torch.Tensor, width: int) -> torch.Tensor:
        """Feed one token per row, rows being slots 0, 1, ….

        Args:
            tokens: (rows,), the tokens sampled last.
            lengths: (rows,), how many tokens stand before them.
            positions: (rows,), their rotary positions.
            width: the longest length after this step.

        Returns:
            Logits (rows, vocabulary).
        """
        rows = tokens.shape[0]
        self.kv.reserve(rows, width)
        self.kv.address(slice(0, rows), lengths[:, None], width)
        hidden = self._forward(
            self._embed(tokens[:, None]), positions[None, :, None].expand(3, rows, 1), lengths[:, None]
        )
        return self._logits(hidden[:, 0])

    def _forward(self, embeds: torch.Tensor, positions: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        out = self._text(
            inputs_embeds=embeds,
            position_ids=positions,
            attention_mask=self._mask(columns, embeds.dtype),
            past_key_values=self.kv,
            use_cache=True,
        )
        hidden: torch.Tensor = out.last_hidden_state
        return hidden

    def _mask(self, columns: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """(rows, 1, queries, columns): what the tokens in these columns (rows, queries) may look at."""
        mask = (torch.arange(self.kv.width, device=self._device) <= columns[:, :, None])[:, None]
        if self._additive:
            return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
        return mask

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._head(hidden)
        return logits


def needed_images(row: SequenceState) -> list[EngineImage]:
    """Those of a row's images that have tokens past its cached length."""
    return [image for image, (_, end) in zip(row.request.images, row.spans, strict=True) if end > row.cached]


def _features(row: SequenceState, features: Mapping[str, ImageFeatures]) -> ImageFeatures | None:
    """The features of a row's visual tokens past its cached length."""
    parts = []
    for image, (start, end) in zip(row.request.images, row.spans, strict=True):
        if end > row.cached:
            own = features[identity(image)]
            skip = max(0, row.cached - start)
            parts.append(ImageFeatures(own.embeds[skip:], tuple(layer[skip:] for layer in own.deepstack)))
    if not parts:
        return None
    return ImageFeatures(
        torch.cat([part.embeds for part in parts]),
        tuple(torch.cat(layer) for layer in zip(*(part.deepstack for part in parts), strict=True)),
    )
