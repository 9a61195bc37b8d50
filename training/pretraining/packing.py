"""Pack one page and many questions into one sequence: the page is encoded once, the questions do not see each other.

A packed row is a trunk (system turn and image) and branches (question, reply, perhaps a zoomed image and a second
reply). A branch attends to the trunk and to itself, and its positions go on where the trunk ends, so every branch
computes exactly what a conversation of its own would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

IGNORED = -100
TRUNK = 0
BUCKET = 32
"""Rows are padded to a multiple of this: few distinct shapes, since oneDNN compiles a kernel for each one it meets."""


@dataclass
class PackedRow:
    """One row under construction. Lists run over tokens."""

    image_token: int
    ids: list[int] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    positions: list[tuple[int, int, int]] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    _segment: int = TRUNK
    _next: int = 0
    _trunk_end: int = 0

    def text(self, ids: Sequence[int], *, weights: Sequence[float] | None = None) -> None:
        """Append tokens. With `weights` (one a token, 0 = not learned) each is the target of the token before it."""
        for i, token in enumerate(ids):
            if weights is not None and weights[i] > 0:
                self.targets[-1], self.weights[-1] = token, weights[i]
            self._append(token, (self._next,) * 3)
            self._next += 1

    def image(self, rows: int, columns: int) -> None:
        """Append the placeholders of an image of `rows` × `columns` visual tokens (M-RoPE: Qwen2-VL, section 2.1)."""
        start = self._next
        for row in range(rows):
            for column in range(columns):
                self._append(self.image_token, (start, start + row, start + column))
        self._next = start + max(rows, columns)

    def branch(self) -> None:
        """Start the next branch at the end of the trunk."""
        if self._segment == TRUNK:
            self._trunk_end = self._next
        self._segment += 1
        self._next = self._trunk_end

    def _append(self, token: int, position: tuple[int, int, int]) -> None:
        self.ids.append(token)
        self.segments.append(self._segment)
        self.positions.append(position)
        self.targets.append(IGNORED)
        self.weights.append(0.0)


@dataclass(frozen=True)
class PackedBatch:
    """Rows padded on the right. B rows, T tokens."""

    ids: Tensor  # (B, T)
    positions: Tensor  # (3, B, T)
    attend: Tensor  # (B, 1, T, T) bool
    targets: Tensor  # (B, T), IGNORED where nothing is learned
    weights: Tensor  # (B, T)


def collate(rows: Sequence[PackedRow], *, pad: int) -> PackedBatch:
    """Pad and stack; padding sees itself only, so that no softmax is empty."""
    longest = -(-max(len(row.ids) for row in rows) // BUCKET) * BUCKET

    def stack(name: str, filler: float) -> Tensor:
        lists = [getattr(row, name) for row in rows]
        width = np.asarray(lists[0]).shape[1:]
        kind = np.float32 if name == "weights" else np.int64
        array = np.full((len(rows), longest, *width), filler, kind)
        for i, values in enumerate(lists):
            array[i, : len(values)] = values
        return torch.from_numpy(array)

    segments = stack("segments", -1)
    same = segments[:, :, None] == segments[:, None, :]
    trunk = (segments == TRUNK)[:, None, :] & (segments >= 0)[:, :, None]
    causal = torch.ones(longest, longest, dtype=torch.bool).tril()
    return PackedBatch(
        ids=stack("ids", pad),
        positions=stack("positions", 0).permute(2, 0, 1).contiguous(),
        attend=((same | trunk) & causal)[:, None],
        targets=stack("targets", IGNORED),
        weights=stack("weights", 0.0),
    )
