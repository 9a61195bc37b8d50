"""Runs the decoder over several sequences: the uncached part of each prompt, then one token per sequence and step.

The stock modules and weights are used unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from vtagent.models.engine import EngineImage
from vtagent.models.families import Family
from vtagent.models.local.attention import RowAttention
from vtagent.models.local.kv_cache import KVRows, Row
from vtagent.models.local.ops import rotated
from vtagent.models.local.products import Products
from vtagent.models.local.sequence import SequenceState
from vtagent.models.local.vision import ImageFeatures
from vtagent.models.placeholders import identity

_CHUNK = 1024
"""Queries of a row in one forward pass of a prefill. It bounds the attention mask and the activations."""


class Decoder:
    """The language model of a Qwen vision-language model, with the KV of the sequences in progress.

    Its attention is `RowAttention`, whatever attention the model was loaded with.

    Args:
        model: A transformers model of a served family.
        family: The model's family.
        image_token_id: The image placeholder.

    Attributes:
        kv: The KV of the sequences in progress.
        device: Of the embeddings and of the logits.
    """

    def __init__(self, model: Any, family: Family, image_token_id: int) -> None:
        self._head = model.lm_head
        self._text = model.model.language_model
        self._embed = model.get_input_embeddings()
        self._image_token_id = image_token_id
        self._product = Products()
        self._deepstack, self._head_norm = family.deepstack, family.head_norm
        self.device: torch.device = self._embed.weight.device
        config = model.config.text_config
        heads = config.num_key_value_heads
        self._group = config.num_attention_heads // heads
        self._devices = [layer.input_layernorm.weight.device for layer in self._text.layers]
        head_dim = self._text.layers[0].self_attn.head_dim
        self.kv = KVRows(heads, head_dim, dtype=model.dtype, devices=self._devices)

    @property
    def devices(self) -> set[torch.device]:
        """Of the layers."""
        return set(self._devices)

    def prefill(
        self,
        sequences: Sequence[SequenceState],
        pieces: Sequence[Sequence[torch.Tensor]],
        features: Mapping[str, ImageFeatures],
        rows: Sequence[Row],
    ) -> torch.Tensor:
        """Compute the known tokens of sequences from their cached length on.

        Args:
            sequences: Whose tokens are computed.
            pieces: Cached KV of each sequence, from its first token on: (layers, 2, heads, tokens, head_dim) each, in
                the dtype of the weights.
            features: By image identity, for every image with tokens past the cached length of a sequence.
            rows: Where their KV goes.

        Returns:
            Logits (sequences, vocabulary) at the last known token of each, in the dtype of the weights.
        """
        starts = [sequence.cached_length for sequence in sequences]
        counts = [sequence.known_length - sequence.cached_length for sequence in sequences]
        queries = max(counts)
        for row, cached in zip(rows, pieces, strict=True):
            self.kv.load(row, cached)
        ids = torch.zeros((len(sequences), queries), dtype=torch.long)
        positions = torch.zeros((3, len(sequences), queries), dtype=torch.long)
        for place, sequence in enumerate(sequences):
            ids[place, : counts[place]] = torch.tensor(sequence.ids[sequence.cached_length : sequence.known_length])
            positions[:, place, : counts[place]] = sequence.known_positions()
        ids, positions = ids.to(self.device), positions.to(self.device)
        is_image = ids == self._image_token_id
        embeds = self._embed(ids)
        new = [own for sequence in sequences for own in _uncached_features(sequence, features)]
        deepstack: list[torch.Tensor] = []
        if new:
            embeds[is_image] = torch.cat([own.embeds for own in new]).to(embeds)
            deepstack = [torch.cat(layer) for layer in zip(*(own.deepstack for own in new), strict=True)]
        final = embeds.new_zeros((len(sequences), embeds.shape[-1]))
        for begin in range(0, queries, _CHUNK):
            own_counts = [min(max(0, count - begin), _CHUNK) for count in counts]
            end = begin + max(own_counts)
            own_starts = [start + min(begin, count) for start, count in zip(starts, counts, strict=True)]
            visual, order = None, None
            if new and self._deepstack and bool(is_image[:, begin:end].any()):
                visual = is_image[:, begin:end]
                order = is_image.flatten().cumsum(0).view_as(is_image)[:, begin:end][visual] - 1
            ending = [place for place, count in enumerate(counts) if begin < count <= end]
            final[ending] = self._pass(
                embeds[:, begin:end],
                positions[:, :, begin:end],
                (rows, own_starts, own_counts),
                ending,
                visual,
                [layer[order] for layer in deepstack] if order is not None else None,
            ).to(final.device)
        return self._logits(final)

    def step(
        self, tokens: torch.Tensor, lengths: Sequence[int], positions: torch.Tensor, rows: Sequence[Row]
    ) -> torch.Tensor:
        """Feed one token to each of the sequences in progress.

        Args:
            tokens: (rows,) int64: the tokens sampled last.
            lengths: How many tokens precede them.
            positions: (rows,) int64: their rotary positions.
            rows: Where their KV is.

        Returns:
            Logits (rows, vocabulary), in the dtype of the weights.
        """
        embeds = self._embed(tokens[:, None])
        where = positions[None, :, None].expand(3, len(rows), 1)
        return self._logits(self._pass(embeds, where, (rows, lengths, [1] * len(rows)), range(len(rows))))

    def _pass(
        self,
        embeds: torch.Tensor,
        positions: torch.Tensor,
        place: tuple[Sequence[Row], Sequence[int], Sequence[int]],
        ending: Sequence[int],
        visual: torch.Tensor | None = None,
        deepstack: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """The language model's forward pass over new tokens, of which only the outputs of some are wanted.

        Every layer writes the KV of all of them. After the KV of the last layer, only the last token of each sequence
        that ends here is computed further, which saves a good part of the work in a model of few layers.

        Args:
            embeds: (rows, queries, hidden), in the dtype of the weights.
            positions: (3, rows, queries) int64, rotary: time, height, width.
            place: The row of each sequence, the tokens that precede the pass, and its new tokens.
            ending: The sequences whose last known token is in this pass.
            visual: (rows, queries) bool: True on visual tokens. Only for deepstack.
            deepstack: For each of the first layers, what it adds to the visual tokens: (visual tokens, hidden).

        Returns:
            (sequences that end, hidden) in the dtype of the weights, ready for the head.
        """
        rows, starts, counts = place
        shared = [part[:, :, None] for part in self._text.rotary_emb(embeds, positions)]
        attend = {device: RowAttention(rows, starts, counts, self._group, device) for device in self.devices}
        x = embeds
        last = len(self._text.layers) - 1
        all_end = embeds.shape[1] == 1 and len(ending) == len(rows)
        for number, layer in enumerate(self._text.layers):
            device = self._devices[number]
            if x.device != device:
                x, shared = x.to(device), [part.to(device) for part in shared]
            attention = layer.self_attn
            h = layer.input_layernorm(x)
            k = rotated(self._queries_or_keys(attention, "k", h), *shared)
            attend[device].write(number, k, _heads(self._product(attention.v_proj, h), attention.head_dim))
            if number == last and not all_end and len(deepstack or ()) <= last:
                if not ending:
                    return x[:0, 0]
                ends = [counts[own] - 1 for own in ending]
                x, h, *shared = (part[list(ending), ends][:, None] for part in (x, h, *shared))
                own_rows, lengths = [rows[own] for own in ending], [starts[own] + counts[own] - 1 for own in ending]
                attend[device] = RowAttention(own_rows, lengths, [1] * len(ending), self._group, device)
                all_end = True
            q = rotated(self._queries_or_keys(attention, "q", h), *shared)
            x = x + self._product(attention.o_proj, attend[device](number, q, attention.scaling))
            x = x + self._mlp(layer.mlp, layer.post_attention_layernorm(x))
            if visual is not None and deepstack is not None and number < len(deepstack):
                x[visual.to(device)] += deepstack[number].to(x)
        if not all_end:
            x = x[list(ending), [counts[own] - 1 for own in ending]][:, None]
        x = x.to(self._text.norm.weight.device)
        out: torch.Tensor = self._text.norm(x[:, 0])
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
        heads = _heads(self._product(getattr(attention, f"{which}_proj"), x), attention.head_dim)
        normed: torch.Tensor = getattr(attention, f"{which}_norm")(heads) if self._head_norm else heads
        return normed

    def _mlp(self, mlp: Any, x: torch.Tensor) -> torch.Tensor:
        """A layer's gated MLP (SwiGLU, arXiv:2002.05202).

        Args:
            mlp: The module.
            x: (rows, queries, hidden), in the dtype of the weights.

        Returns:
            As `x`.
        """
        gated = mlp.act_fn(self._product(mlp.gate_proj, x)) * self._product(mlp.up_proj, x)
        return self._product(mlp.down_proj, gated)

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Apply the head.

        Args:
            hidden: (rows, hidden), in the dtype of the weights.

        Returns:
            (rows, vocabulary), in the same dtype, on the device of the embeddings.
        """
        logits = self._product(self._head, hidden.to(self._head.weight.device)[:, None])[:, 0]
        return logits.to(self.device)


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
