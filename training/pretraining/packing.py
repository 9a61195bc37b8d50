"""Packs one page and many questions into one token sequence, so that the page is encoded once.

A packed sequence is a trunk (system turn and image) with branches (question, reply, perhaps a zoomed image and a second
reply). A branch attends to the trunk and to itself, never to another branch, and its positions continue where the trunk
ends. So each branch computes exactly what a conversation of its own would compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import torch
from torch import Tensor

IGNORED = -100
"""Target of a token after which nothing is learned."""
TRUNK = 0
"""Segment of the trunk; the branches are segments 1, 2 and so on."""
PADDING = -1
"""Segment of the padding."""
BUCKET = 32
"""Sequences are padded to a multiple of this many tokens: oneDNN compiles a kernel for each shape, so few may occur."""


@dataclass
class PackedSequence:
    """A packed sequence under construction. Its lists have one entry for each token."""

    image_token: int
    """Id of the token that stands for a visual token."""
    ids: list[int] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    """`TRUNK`, or the number of the branch."""
    positions: list[tuple[int, int, int]] = field(default_factory=list)
    """M-RoPE positions: time, row, column (Qwen2-VL, arXiv:2409.12191, section 2.1)."""
    targets: list[int] = field(default_factory=list)
    """The token to learn after this one, or `IGNORED`."""
    weights: list[float] = field(default_factory=list)
    """Loss weight of the target."""
    _segment: int = TRUNK
    _next: int = 0
    _trunk_end: int = 0

    def text(self, ids: Sequence[int], *, weights: Sequence[float] | None = None) -> None:
        """Append tokens of text.

        Args:
            ids: The tokens.
            weights: A loss weight for each token. A token of positive weight becomes the target of the token before it.
                By default nothing is learned.
        """
        for i, token in enumerate(ids):
            if weights is not None and weights[i] > 0:
                self.targets[-1], self.weights[-1] = token, weights[i]
            self._append(token, (self._next,) * 3)
            self._next += 1

    def image(self, rows: int, columns: int) -> None:
        """Append the placeholders of an image of `rows` × `columns` visual tokens."""
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

    @property
    def branches(self) -> int:
        """How many branches there are."""
        return self._segment

    def _append(self, token: int, position: tuple[int, int, int]) -> None:
        self.ids.append(token)
        self.segments.append(self._segment)
        self.positions.append(position)
        self.targets.append(IGNORED)
        self.weights.append(0.0)


@dataclass(frozen=True)
class PackedBatch:
    """B packed sequences, padded on the right to T tokens."""

    ids: Tensor
    """(B, T) int64."""
    positions: Tensor
    """(3, B, T) int64."""
    segments: Tensor
    """(B, T) int64: `TRUNK`, the number of the branch, or `PADDING`."""
    targets: Tensor
    """(B, T) int64, `IGNORED` where nothing is learned."""
    weights: Tensor
    """(B, T) float32, 0 where nothing is learned."""

    def to(self, device: torch.device) -> PackedBatch:
        """The batch on a device."""
        return PackedBatch(**{f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)})

    def attend(self) -> Tensor:
        """(B, 1, T, T) bool, True where the query (third axis) attends to the key (fourth axis).

        Padding attends to padding, so that every softmax has a key.
        """
        queries, keys = self.segments[:, :, None], self.segments[:, None, :]
        causal = torch.ones(2 * self.ids.shape[-1:], dtype=torch.bool, device=self.segments.device).tril()
        return (((queries == keys) | ((keys == TRUNK) & (queries != PADDING))) & causal)[:, None]

    def part(self, places: slice) -> PackedBatch:
        """The sequences at these places of the batch, still padded to T tokens."""
        return PackedBatch(
            self.ids[places],
            self.positions[:, places],
            self.segments[places],
            self.targets[places],
            self.weights[places],
        )


def collate(sequences: Sequence[PackedSequence], *, pad: int) -> PackedBatch:
    """Pad sequences and stack them.

    Args:
        sequences: B sequences.
        pad: Id of the padding token.

    Returns:
        The batch. T is the length of the longest sequence, rounded up to a multiple of `BUCKET`.
    """
    longest = -(-max(len(sequence.ids) for sequence in sequences) // BUCKET) * BUCKET

    def stack(name: str, filler: float) -> Tensor:
        """One of the lists as (B, T, …): float32 for weights, else int64."""
        lists = [getattr(sequence, name) for sequence in sequences]
        width = np.asarray(lists[0]).shape[1:]
        kind = np.float32 if name == "weights" else np.int64
        array = np.full((len(sequences), longest, *width), filler, kind)
        for i, values in enumerate(lists):
            array[i, : len(values)] = values
        return torch.from_numpy(array)

    return PackedBatch(
        ids=stack("ids", pad),
        positions=stack("positions", 0).permute(2, 0, 1).contiguous(),
        segments=stack("segments", PADDING),
        targets=stack("targets", IGNORED),
        weights=stack("weights", 0.0),
    )
