"""The KV of the sequences being decoded: a row each, in blocks of rows of about the same length.

A row of n tokens fills columns 0…n-1; later columns are never attended to. There is no left padding, so sequences of
different lengths share a batch without a change of their positions. A block is a rectangle of rows that differ by an
eighth at most, so a long row does not widen the short ones, and attention over a block is still one call. A block
grows layer by layer: only one layer of it is in memory twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

_COLUMNS = 64
"""Columns of a row are a multiple of this."""

_SMALL_ROW = 2**20
"""Bytes. Rows up to this size share a block: there, one rectangle costs less than several calls."""

_SMALL_BLOCK = 2**26
"""Bytes up to which a block grows by more rows than are wanted, so that rows that come one by one do not copy it."""


class Row:
    """The place of one sequence. It moves when the sequence outgrows its block, or when a neighbour leaves."""

    def __init__(self, block: Block, slot: int) -> None:
        self.block, self.slot = block, slot

    @property
    def columns(self) -> int:
        """Most tokens that the row can hold."""
        return self.block.columns


class Block:
    """A rectangle of rows.

    Args:
        columns: Columns of each row.

    Attributes:
        layers: For each layer, a tensor (2, slots, heads, columns, head_dim) on the layer's device.
        rows: The rows; row i is in slot i.
    """

    def __init__(self, columns: int, layers: list[torch.Tensor]) -> None:
        self.columns, self.layers = columns, layers
        self.rows: list[Row] = []

    @property
    def slots(self) -> int:
        """Rows for which there is memory."""
        return int(self.layers[0].shape[1])


class KVRows:
    """Keys and values of all sequences in progress.

    Args:
        heads: Key-value heads of a layer.
        head_dim: Size of a head.
        dtype: Of the weights.
        devices: The device of each layer.

    Attributes:
        token_bytes: Bytes of one token, in all layers.
    """

    def __init__(self, heads: int, head_dim: int, *, dtype: torch.dtype, devices: Sequence[torch.device]) -> None:
        self._heads, self._head_dim, self._dtype, self._devices = heads, head_dim, dtype, list(devices)
        self.token_bytes = 2 * len(self._devices) * heads * head_dim * dtype.itemsize
        self._least = _COLUMNS
        while 2 * self._least * self.token_bytes <= _SMALL_ROW:
            self._least *= 2
        self._blocks: dict[int, Block] = {}

    @property
    def bytes(self) -> int:
        """Allocated memory of all blocks, used or not."""
        return self.token_bytes * sum(block.columns * block.slots for block in self._blocks.values())

    def columns_for(self, tokens: int) -> int:
        """Columns of a row that is to hold so many tokens: at most an eighth or 63 more, or what small rows have."""
        if tokens <= self._least:
            return self._least
        step = max(_COLUMNS, (1 << (tokens - 1).bit_length() - 1) // 8)
        return -(-tokens // step) * step

    def row_bytes(self, tokens: int) -> int:
        """Memory of a row that is to hold so many tokens."""
        return self.columns_for(tokens) * self.token_bytes

    def open(self, lengths: Sequence[int]) -> list[Row]:
        """Allocate rows.

        Args:
            lengths: Tokens that each row is to hold.
        """
        wanted = [self.columns_for(tokens) for tokens in lengths]
        for columns in set(wanted):
            self._reserve(columns, wanted.count(columns))
        rows = []
        for columns in wanted:
            block = self._blocks[columns]
            rows.append(Row(block, len(block.rows)))
            block.rows.append(rows[-1])
        return rows

    def grow(self, rows: Sequence[Row], lengths: Sequence[int]) -> None:
        """Move rows to larger ones, with what they hold.

        Args:
            rows: The rows.
            lengths: Tokens that each row is to hold.
        """
        for row, larger in zip(rows, self.open(lengths), strict=True):
            for old, new in zip(row.block.layers, larger.block.layers, strict=True):
                new[:, larger.slot, :, : row.columns] = old[:, row.slot]
            self._leave(row)
            row.block, row.slot = larger.block, larger.slot
            row.block.rows[row.slot] = row
        self._trim()

    def close(self, rows: Sequence[Row]) -> None:
        """Free rows."""
        for row in rows:
            self._leave(row)
        self._trim()

    def load(self, row: Row, pieces: Sequence[torch.Tensor]) -> None:
        """Copy KV into a row.

        Args:
            row: The row.
            pieces: (layers, 2, heads, tokens, head_dim) each, in the dtype of the weights; one after the other from
                column 0 on.
        """
        at = 0
        for piece in pieces:
            end = at + piece.shape[3]
            for layer, part in zip(row.block.layers, piece, strict=True):
                layer[:, row.slot, :, at:end] = part
            at = end

    def copy_out(self, row: Row, start: int, end: int) -> torch.Tensor:
        """A copy of a row's columns start…end-1.

        Returns:
            (layers, 2, heads, end - start, head_dim), in the dtype of the weights, on the device of the first layer.
        """
        out = row.block.layers[0].new_empty((len(self._devices), 2, self._heads, end - start, self._head_dim))
        for layer, part in zip(row.block.layers, out, strict=True):
            part.copy_(layer[:, row.slot, :, start:end])
        return out

    def copy(self, source: Row, target: Row, length: int) -> None:
        """Copy the first `length` columns of one row to another."""
        for old, new in zip(source.block.layers, target.block.layers, strict=True):
            new[:, target.slot, :, :length] = old[:, source.slot, :, :length]

    def _reserve(self, columns: int, more: int) -> None:
        """Make room for `more` rows of so many columns."""
        block = self._blocks.get(columns)
        if block is None:
            block = self._blocks[columns] = Block(columns, [self._empty(columns, 0, at) for at in self._devices])
        need = len(block.rows) + more
        if need > block.slots:
            row_bytes = columns * self.token_bytes
            spare = max(need // 8, min(16, need, _SMALL_BLOCK // row_bytes - need)) if block.rows else 0
            self._resize(block, need + spare)

    def _resize(self, block: Block, slots: int) -> None:
        kept = len(block.rows)
        for number, old in enumerate(block.layers):
            new = self._empty(block.columns, slots, old.device)
            new[:, :kept] = old[:, :kept]
            block.layers[number] = new

    def _empty(self, columns: int, slots: int, device: torch.device) -> torch.Tensor:
        """Zeros, because a masked column counts 0 times what it holds, and 0 times nan is nan."""
        shape = (2, slots, self._heads, columns, self._head_dim)
        return torch.zeros(shape, dtype=self._dtype, device=device)

    def _leave(self, row: Row) -> None:
        """Take a row out of its block, and move the block's last row into the gap."""
        last = row.block.rows.pop()
        if last is not row:
            for layer in row.block.layers:
                layer[:, row.slot] = layer[:, last.slot]
            last.slot = row.slot
            row.block.rows[row.slot] = last

    def _trim(self) -> None:
        """Free blocks without rows, and what is not needed of large blocks."""
        self._blocks = {columns: block for columns, block in self._blocks.items() if block.rows}
        for block in self._blocks.values():
            large = block.slots * block.columns * self.token_bytes > _SMALL_BLOCK
            if large and 2 * len(block.rows) <= block.slots:
                self._resize(block, len(block.rows))
