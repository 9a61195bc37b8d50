"""Attention of one forward pass over rows of the KV: where new tokens are written, and what each may attend to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention

from vtagent.models.local.kv_cache import Block, Row


@dataclass(frozen=True)
class _Part:
    """The rows of a pass that are in one block, in the order of their slots."""

    block: Block
    order: torch.Tensor | None
    """(rows,) int64: which rows of the batch they are; None for all in order."""
    slots: torch.Tensor
    """(rows, 1) int64."""
    first: int | None
    """The first slot if the slots are adjacent, else None."""
    columns: torch.Tensor
    """(rows, span) int64: the column of each new token."""
    span: int
    """New tokens that any of the rows has; what follows in the batch is padding."""
    width: int
    """Columns that are read."""
    mask: torch.Tensor | None
    """(rows or 1, 1, group * span, width) bool: True where a query may attend. None: all of `width`, or `causal`."""
    causal: bool


class RowAttention:
    """The attention of one pass, the same for all layers on one device.

    Args:
        rows: The row of each sequence of the batch.
        starts: Tokens of each sequence that precede the pass.
        counts: New tokens of each sequence, at least one in all; the batch is as wide as the largest.
        group: Query heads for each key-value head.
        device: Of the layers.
    """

    def __init__(
        self, rows: Sequence[Row], starts: Sequence[int], counts: Sequence[int], group: int, device: torch.device
    ) -> None:
        self._group, self._queries = group, max(counts)
        by_block: dict[int, list[int]] = {}
        for place, row in enumerate(rows):
            if counts[place]:
                by_block.setdefault(row.columns, []).append(place)
        self._parts = []
        for places in by_block.values():
            places.sort(key=lambda place: rows[place].slot)
            self._parts.append(self._part(rows, places, starts, counts, device))

    def _part(
        self,
        rows: Sequence[Row],
        places: list[int],
        starts: Sequence[int],
        counts: Sequence[int],
        device: torch.device,
    ) -> _Part:
        block, span = rows[places[0]].block, max(counts[place] for place in places)
        slots = [rows[place].slot for place in places]
        own = [starts[place] for place in places]
        width = max(starts[place] + counts[place] for place in places)
        start = torch.tensor(own, device=device)[:, None]
        columns = start + torch.arange(span, device=device)
        causal = span > 1 and not any(own)
        alike = len(set(own)) == 1
        mask = None
        if not causal and not (span == 1 and alike):
            queries = columns[:1] if alike else columns
            mask = (torch.arange(width, device=device) <= queries[:, :, None])[:, None]
            mask = mask.repeat(1, 1, self._group, 1) if span > 1 else mask
        if int(block.columns) < max(own) + span:  # of padding: the last column of such a row holds no token yet
            columns = columns.clamp(max=block.columns - 1)
        return _Part(
            block=block,
            order=None if places == list(range(len(rows))) else torch.tensor(places, device=device),
            slots=torch.tensor(slots, device=device)[:, None],
            first=slots[0] if slots == list(range(slots[0], slots[0] + len(slots))) else None,
            columns=columns,
            span=span,
            width=width,
            mask=mask,
            causal=causal,
        )

    def write(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Write one layer's new keys and values.

        Args:
            layer: The layer.
            keys: (rows, queries, heads, head_dim), in the dtype of the weights.
            values: As `keys`.
        """
        for part in self._parts:
            own = part.block.layers[layer]
            for new, into in ((keys, own[0]), (values, own[1])):
                mine = new if part.order is None else new[part.order]
                into.transpose(1, 2)[part.slots, part.columns] = mine[:, : part.span]

    def __call__(self, layer: int, queries: torch.Tensor, scaling: float) -> torch.Tensor:
        """Attend to what is written.

        Args:
            layer: The layer.
            queries: (rows, queries, query heads, head_dim), in the dtype of the weights.
            scaling: Factor of the scores.

        Returns:
            (rows, queries, query heads * head_dim), in the same dtype; 0 for padding.
        """
        out: torch.Tensor | None = None
        for part in self._parts:
            mine = queries if part.order is None else queries[part.order]
            mixed = self._attend(part, layer, mine[:, : part.span], scaling)
            if part.order is None and part.span == self._queries:
                return mixed.flatten(2)
            out = torch.zeros_like(queries) if out is None else out
            if part.order is None:
                out[:, : part.span] = mixed
            else:
                out[part.order, : part.span] = mixed
        assert out is not None
        return out.flatten(2)

    def _attend(self, part: _Part, layer: int, queries: torch.Tensor, scaling: float) -> torch.Tensor:
        """Attention over one block.

        Args:
            part: The block's part.
            layer: The layer.
            queries: (rows of the part, span, query heads, head_dim), in the dtype of the weights.
            scaling: Factor of the scores.

        Returns:
            Shape and dtype of `queries`.
        """
        own, count = part.block.layers[layer], len(queries)
        if part.first is not None:
            own = own[:, part.first : part.first + count, :, : part.width]
        else:
            own = own[:, part.slots[:, 0], :, : part.width]
        keys, values = own[0], own[1]
        if part.causal:
            q = queries.transpose(1, 2)
            out = scaled_dot_product_attention(
                q, keys, values, is_causal=True, scale=scaling, enable_gqa=self._group > 1
            )
            return out.transpose(1, 2)
        # The query heads of a key-value head become more queries of it, so that keys and values are not repeated.
        q = queries.unflatten(2, (-1, self._group)).permute(0, 2, 3, 1, 4).flatten(2, 3)
        mixed: torch.Tensor = scaled_dot_product_attention(q, keys, values, part.mask, scale=scaling)
        mixed = mixed.unflatten(2, (self._group, part.span)).permute(0, 3, 1, 2, 4).flatten(2, 3)
        return mixed
