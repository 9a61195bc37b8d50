"""The KV of the sequences being decoded, in one tensor of slots and columns. Sequences come and go separately.

A sequence of n tokens fills columns 0…n-1 of its slot; later columns are never attended to. There is no left padding,
so sequences of different lengths share a batch without a change of their positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

_ROUND = 64
"""Columns are allocated in multiples of this."""


class KVRows:
    """Keys and values in a tensor (layers, 2, slots, heads, columns, head_dim); transformers' layers write to it.

    Args:
        layers: Layers of the language model.
        heads: Key-value heads of a layer.
        head_dim: Size of a head.
        dtype: Of the weights.
        device: Of the weights.

    Attributes:
        width: Columns that the next pass reads, 0…width-1.
    """

    def __init__(self, layers: int, heads: int, head_dim: int, *, dtype: torch.dtype, device: torch.device) -> None:
        self._shape = (layers, heads, head_dim)
        self._data = torch.zeros((layers, 2, 0, heads, 0, head_dim), dtype=dtype, device=device)
        self._slots = slice(0, 0)
        self._columns = torch.zeros((0, 0), dtype=torch.long, device=device)
        self._rows = torch.zeros((0, 1), dtype=torch.long, device=device)
        self.width = 0

    @property
    def tokens(self) -> int:
        """Allocated columns of all slots, used or not, in tokens."""
        return self._data.shape[2] * self._data.shape[4]

    def reserve(self, slots: int, columns: int) -> None:
        """Allocate at least this many slots and columns, and keep what they hold."""
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
        """Free all memory."""
        layers, heads, head_dim = self._shape
        self._data = self._data.new_zeros((layers, 2, 0, heads, 0, head_dim))

    def load(self, slot: int, pieces: Sequence[torch.Tensor]) -> None:
        """Copy KV into a slot.

        Args:
            slot: The slot.
            pieces: (layers, 2, heads, tokens, head_dim) each, in the dtype of the weights; one after the other from
                column 0 on.
        """
        at = 0
        for piece in pieces:
            self._data[:, :, slot, :, at : at + piece.shape[3]] = piece
            at += piece.shape[3]

    def copy_out(self, slot: int, start: int, end: int) -> torch.Tensor:
        """A copy of a slot's columns start…end-1.

        Returns:
            (layers, 2, heads, end - start, head_dim), in the dtype of the weights.
        """
        return self._data[:, :, slot, :, start:end].clone()

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` columns of one slot to another."""
        self._data[:, :, target, :, :length] = self._data[:, :, source, :, :length]

    def address(self, slots: slice, columns: torch.Tensor, width: int) -> None:
        """Set where the next forward pass writes and how far it reads.

        Args:
            slots: One slot for each row of the batch.
            columns: (rows, queries) int64: the column of each new token.
            width: The pass reads columns 0…width-1.
        """
        self._slots, self._columns, self.width = slots, columns, width
        self._rows = torch.arange(slots.start, slots.stop, device=columns.device)[:, None]

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one layer's new keys and values. The signature is that of transformers' caches.

        Args:
            keys: (rows, heads, queries, head_dim), in the dtype of the weights.
            values: As `keys`.
            layer_idx: The layer.
            *args: Not used.
            **kwargs: Not used.

        Returns:
            The layer's keys and values up to `width`: (rows, heads, width, head_dim) each, in the same dtype.
        """
        own = self._data[layer_idx]
        own[0].transpose(1, 2)[self._rows, self._columns] = keys.transpose(1, 2)
        own[1].transpose(1, 2)[self._rows, self._columns] = values.transpose(1, 2)
        seen = own[:, self._slots, :, : self.width]
        return seen[0], seen[1]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns that precede the new tokens of this pass. transformers asks, but does not need it: see `Decoder`."""
        return self.width - self._columns.shape[1]
