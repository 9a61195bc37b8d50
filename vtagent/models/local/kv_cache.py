"""The KV of the rows being decoded: one rectangle of slots and columns, whose rows come, grow and go independently.

Row r of length n fills columns 0…n-1; what lies beyond is never attended to. There is no left padding: each row's
positions are its own, so rows of different lengths and different images share a batch without shifting one another.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

_ROUND = 64


class KVRows:
    """Keys and values, (layers, 2, slots, heads, columns, head_dim); also the cache that the decoder writes to."""

    def __init__(self, layers: int, heads: int, head_dim: int, *, dtype: torch.dtype, device: torch.device) -> None:
        self._shape = (layers, heads, head_dim)
        self._data = torch.zeros((layers, 2, 0, heads, 0, head_dim), dtype=dtype, device=device)
        self._slots = slice(0, 0)
        self._columns = torch.zeros((0, 0), dtype=torch.long, device=device)
        self._rows = torch.zeros((0, 1), dtype=torch.long, device=device)
        self.width = 0
        """Columns that the next pass reads, 0…width-1."""

    @property
    def tokens(self) -> int:
        """Tokens of memory held, filled or not."""
        return self._data.shape[2] * self._data.shape[4]

    def reserve(self, slots: int, columns: int) -> None:
        """Make room; what is there is kept."""
        layers, heads, head_dim = self._shape
        have = self._data.shape[2], self._data.shape[4]
        if slots <= have[0] and columns <= have[1]:
            return
        slots = have[0] if slots <= have[0] else max(slots, min(2 * have[0], slots + 16))
        columns = max(have[1], -(-columns // _ROUND) * _ROUND)
        data = self._data.new_zeros((layers, 2, slots, heads, columns, head_dim))
        data[:, :, : have[0], :, : have[1]] = self._data
        self._data = data

    def release(self) -> None:
        """Give all memory back."""
        layers, heads, head_dim = self._shape
        self._data = self._data.new_zeros((layers, 2, 0, heads, 0, head_dim))

    def load(self, slot: int, pieces: Sequence[torch.Tensor]) -> None:
        """Lay pieces of KV, (layers, 2, heads, tokens, head_dim), into a slot from column 0 on."""
        at = 0
        for piece in pieces:
            self._data[:, :, slot, :, at : at + piece.shape[3]] = piece
            at += piece.shape[3]

    def copy_out(self, slot: int, start: int, end: int) -> torch.Tensor:
        """A copy of columns start…end-1 of a slot."""
        return self._data[:, :, slot, :, start:end].clone()

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a row's first `length` columns into another slot."""
        self._data[:, :, target, :, :length] = self._data[:, :, source, :, :length]

    def address(self, slots: slice, columns: torch.Tensor, width: int) -> None:
        """Say where the next forward pass writes and how far it reads.

        Args:
            slots: the rows of the batch, one slot each.
            columns: (rows, queries), the column of each new token.
            width: the columns that are read, 0…width-1.
        """
        self._slots, self._columns, self.width = slots, columns, width
        self._rows = torch.arange(slots.start, slots.stop, device=columns.device)[:, None]

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one layer's new keys and values, (rows, heads, queries, head_dim); return what may be attended to."""
        own = self._data[layer_idx]
        own[0].transpose(1, 2)[self._rows, self._columns] = keys.transpose(1, 2)
        own[1].transpose(1, 2)[self._rows, self._columns] = values.transpose(1, 2)
        seen = own[:, self._slots, :, : self.width]
        return seen[0], seen[1]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """The columns read before the tokens of this pass; the decoder asks, but its masks and positions are ours."""
        return self.width - self._columns.shape[1]
