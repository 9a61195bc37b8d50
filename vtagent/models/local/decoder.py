"""Runs the decoder over several sequences: the uncached part of each prompt, then one token per sequence and step.

The stock modules and weights are used unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from vtagent.errors import ModelError
from vtagent.models.engine import EngineImage
from vtagent.models.families import Family
from vtagent.models.local.kv_cache import KVRows
from vtagent.models.local.ops import rotated
from vtagent.models.local.sequence import SequenceState
from vtagent.models.local.vision import ImageFeatures
from vtagent.models.placeholders import identity

_CHUNK = 1024
"""Queries in one forward pass of a prefill. It bounds the attention mask, (rows, queries, columns)."""


class Decoder:
    """The language model of a Qwen vision-language model, with the KV of the sequences in progress.

    Args:
        model: A transformers model of a served family, loaded with "sdpa" or "eager" attention.
        family: The model's family.
        image_token_id: The image placeholder.

    Attributes:
        kv: The KV of the sequences in progress.

    Raises:
        ModelError: The model was loaded with another attention.
    """

    def __init__(self, model: Any, family: Family, image_token_id: int) -> None:
        self._head = model.lm_head
        self._text = model.model.language_model
        self._embed = model.get_input_embeddings()
        self._image_token_id = image_token_id
        self._deepstack, self._head_norm = family.deepstack, family.head_norm
        self._device = model.device
        config = model.config.text_config
        self._additive = config._attn_implementation == "eager"
        if config._attn_implementation not in ("sdpa", "eager"):
            raise ModelError(f"attention {config._attn_implementation!r} is not served; load the model with 'sdpa'")
        head_dim = self._text.layers[0].self_attn.head_dim
        self.kv = KVRows(
            config.num_hidden_layers, config.num_key_value_heads, head_dim, dtype=model.dtype, device=self._device
        )

    def prefill(
        self,
        sequences: Sequence[SequenceState],
        pieces: Sequence[Sequence[torch.Tensor]],
        features: Mapping[str, ImageFeatures],
        slot: int,
    ) -> torch.Tensor:
        """Compute prompts from their cached length on, into adjacent slots.

        Args:
            sequences: Whose prompts are computed.
            pieces: Cached KV of each sequence, from its first token on: (layers, 2, heads, tokens, head_dim) each, in
                the dtype of the weights.
            features: By image identity, for every image with tokens past the cached length of a sequence.
            slot: Slot of the first sequence.

        Returns:
            Logits (sequences, vocabulary) at the last token of each prompt, in the dtype of the weights.
        """
        starts = torch.tensor([sequence.cached_length for sequence in sequences], device=self._device)
        lengths = [sequence.prompt_length - sequence.cached_length for sequence in sequences]
        queries = max(lengths)
        most_cached = max(sequence.cached_length for sequence in sequences)
        self.kv.reserve(slot + len(sequences), most_cached + queries)
        for place, cached in enumerate(pieces):
            self.kv.load(slot + place, cached)
        ids = torch.zeros((len(sequences), queries), dtype=torch.long)
        positions = torch.zeros((3, len(sequences), queries), dtype=torch.long)
        for place, sequence in enumerate(sequences):
            ids[place, : lengths[place]] = torch.tensor(sequence.ids[sequence.cached_length : sequence.prompt_length])
            positions[:, place, : lengths[place]] = sequence.positions[:, sequence.cached_length :]
        ids, positions = ids.to(self._device), positions.to(self._device)
        is_image = ids == self._image_token_id
        embeds = self._embed(ids)
        new = [own for sequence in sequences for own in _uncached_features(sequence, features)]
        deepstack: list[torch.Tensor] = []
        if new:
            embeds[is_image] = torch.cat([own.embeds for own in new]).to(embeds.dtype)
            deepstack = [torch.cat(layer) for layer in zip(*(own.deepstack for own in new), strict=True)]
        last = torch.tensor(lengths, device=self._device) - 1
        final = embeds.new_zeros((len(sequences), embeds.shape[-1]))
        for begin in range(0, queries, _CHUNK):
            end = min(begin + _CHUNK, queries)
            columns = starts[:, None] + torch.arange(begin, end, device=self._device)
            self.kv.address(slice(slot, slot + len(sequences)), columns, most_cached + end)
            visual, order = None, None
            if new and self._deepstack and bool(is_image[:, begin:end].any()):
                visual = is_image[:, begin:end]
                order = is_image.flatten().cumsum(0).view_as(is_image)[:, begin:end][visual] - 1
            ending = torch.nonzero((last >= begin) & (last < end)).flatten()
            final[ending] = self._prompt_pass(
                embeds[:, begin:end],
                positions[:, :, begin:end],
                self._mask(columns, embeds.dtype),
                (ending, last[ending] - begin),
                visual,
                [layer[order] for layer in deepstack] if order is not None else None,
            )
        return self._logits(final)

    def _prompt_pass(
        self,
        embeds: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor,
        ends: tuple[torch.Tensor, torch.Tensor],
        visual: torch.Tensor | None = None,
        deepstack: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """The language model's forward pass over prompts, of which only the outputs of the last tokens are wanted.

        It computes the tokens that `KVRows.address` was given. Every layer writes the KV of all of them. After the KV
        of the last layer, only the last token of each prompt is computed further, which saves a good part of the work
        in a model of few layers.

        Args:
            embeds: (rows, queries, hidden), in the dtype of the weights.
            positions: (3, rows, queries) int64, rotary: time, height, width.
            mask: (rows, 1, queries, columns), from `_mask`.
            ends: The rows whose prompt ends here, and the place of the last token of each: (n,) int64 both.
            visual: (rows, queries) bool: True on visual tokens. Only for deepstack.
            deepstack: For each of the first layers, what it adds to the visual tokens: (visual tokens, hidden).

        Returns:
            (n, hidden) in the dtype of the weights, ready for the head.
        """
        cosines, sines = (part[:, :, None] for part in self._text.rotary_emb(embeds, positions))
        rows, places = ends
        x = embeds
        last = len(self._text.layers) - 1
        for number, layer in enumerate(self._text.layers):
            attention = layer.self_attn
            h = layer.input_layernorm(x)
            k = rotated(self._queries_or_keys(attention, "k", h), cosines, sines)
            v = _heads(attention.v_proj(h), attention.head_dim)
            keys, values = self.kv.update(k.transpose(1, 2), v.transpose(1, 2), number)
            if number == last and len(deepstack or ()) <= last:  # no layer adds to visual tokens any more
                if not len(rows):
                    return x[rows, places]
                x, h, cosines, sines = (part[rows, places][:, None] for part in (x, h, cosines, sines))
                mask = mask[rows, :, places][:, :, None]
                if len(rows) < len(keys):
                    keys, values = keys[rows], values[rows]
                rows, places = torch.arange(len(rows), device=x.device), torch.zeros_like(places)
            q = rotated(self._queries_or_keys(attention, "q", h), cosines, sines).transpose(1, 2)
            mixed, _ = ALL_ATTENTION_FUNCTIONS["sdpa"](
                attention, q, keys, values, mask, dropout=0.0, scaling=attention.scaling
            )
            x = x + attention.o_proj(mixed.flatten(2))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
            if visual is not None and deepstack is not None and number < len(deepstack):
                x[visual] += deepstack[number].to(x.dtype)
        out: torch.Tensor = self._text.norm(x[rows, places])
        return out

    def _queries_or_keys(self, attention: Any, which: str, x: torch.Tensor) -> torch.Tensor:
        """Queries ("q") or keys ("k"), normalised in families that do so.

        Args:
            attention: A layer's attention module.
            which: "q" or "k".
            x: (rows, queries, hidden), in the dtype of the weights.

        Returns:
            (rows, queries, heads, head_dim), in the same dtype.
        """
        heads = _heads(getattr(attention, f"{which}_proj")(x), attention.head_dim)
        normed: torch.Tensor = getattr(attention, f"{which}_norm")(heads) if self._head_norm else heads
        return normed

    def step(self, tokens: torch.Tensor, lengths: torch.Tensor, positions: torch.Tensor, width: int) -> torch.Tensor:
        """Feed one token to each of the rows in slots 0, 1, ….

        Args:
            tokens: (rows,) int64: the tokens sampled last.
            lengths: (rows,) int64: how many tokens precede them.
            positions: (rows,) int64: their rotary positions.
            width: Length of the longest row after this step.

        Returns:
            Logits (rows, vocabulary), in the dtype of the weights.
        """
        rows = tokens.shape[0]
        self.kv.reserve(rows, width)
        self.kv.address(slice(0, rows), lengths[:, None], width)
        embeds = self._embed(tokens[:, None])
        out = self._text(
            inputs_embeds=embeds,
            position_ids=positions[None, :, None].expand(3, rows, 1),
            attention_mask=self._mask(lengths[:, None], embeds.dtype),
            past_key_values=self.kv,
            use_cache=True,
        )
        return self._logits(out.last_hidden_state[:, 0])

    def _mask(self, columns: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The attention mask: a token may attend to its own column and those before it.

        Args:
            columns: (rows, queries) int64: the column of each query.
            dtype: Of an additive mask, which "eager" attention takes.

        Returns:
            (rows, 1, queries, columns): True where a token may attend, or 0 there and the lowest number elsewhere.
        """
        mask = (torch.arange(self.kv.width, device=self._device) <= columns[:, :, None])[:, None]
        if self._additive:
            return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
        return mask

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Apply the head.

        Args:
            hidden: (rows, hidden), in the dtype of the weights.

        Returns:
            (rows, vocabulary), in the same dtype.
        """
        logits: torch.Tensor = self._head(hidden)
        return logits


def _heads(x: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Split (rows, queries, heads * head_dim) into (rows, queries, heads, head_dim), of the same dtype."""
    heads: torch.Tensor = x.unflatten(-1, (-1, head_dim))
    return heads


def needed_images(sequence: SequenceState) -> list[EngineImage]:
    """Images of a sequence that have tokens past its cached length."""
    images = zip(sequence.request.images, sequence.spans, strict=True)
    return [image for image, (_, end) in images if end > sequence.cached_length]


def _uncached_features(sequence: SequenceState, features: Mapping[str, ImageFeatures]) -> Iterator[ImageFeatures]:
    """Features of a sequence's visual tokens past its cached length.

    Args:
        sequence: The sequence.
        features: By image identity: (visual tokens, hidden) in the dtype of the weights, as all of `ImageFeatures`.

    Yields:
        Those of each of its images: (visual tokens, hidden) in the same dtype.
    """
    for image, (start, end) in zip(sequence.request.images, sequence.spans, strict=True):
        if end > sequence.cached_length:
            own = features[identity(image)]
            skip = max(0, sequence.cached_length - start)
            yield ImageFeatures(own.embeds[skip:], tuple(layer[skip:] for layer in own.deepstack))
