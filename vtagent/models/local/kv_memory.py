"""The memory for KV: rows in progress and KV kept for reuse share one bound, and what is kept gives way to rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vtagent.errors import ModelError
from vtagent.models.local.kv_cache import KVRows, Row
from vtagent.models.local.memory import in_words
from vtagent.models.local.prefix_cache import PrefixCache
from vtagent.models.local.sequence import SequenceState

MIN_SHARED = 32
"""KV is copied or waited for by another prompt only if that saves at least this many tokens."""

_FIRST_TOKENS = 64
"""Tokens of a reply for which a row has room at first."""


class KVMemory:
    """The rows of sequences, and the KV of earlier ones.

    Args:
        rows: The rows.
        limit: Bound on all KV, in bytes.
        cache_tokens: Bound on the KV kept for reuse, in tokens.

    Attributes:
        rows: The rows.
        prefixes: The KV kept for reuse.
        limit: Bound on all KV, in bytes.
    """

    def __init__(self, rows: KVRows, *, limit: int, cache_tokens: int) -> None:
        self.rows, self.limit = rows, limit
        self.prefixes = PrefixCache(cache_tokens)

    @property
    def free(self) -> int:
        """Bytes that new rows may take, in place of what is kept."""
        return self.limit - self.rows.bytes

    def find(self, sequence: SequenceState, active: Sequence[SequenceState], epoch: int) -> list[torch.Tensor]:
        """The known KV of a sequence's beginning, of what is kept and of what is in progress. Sets its cached length.

        Args:
            sequence: The sequence.
            active: The sequences in progress.
            epoch: Version of the weights.

        Returns:
            (layers, 2, heads, tokens, head_dim) each, in the dtype of the weights.
        """
        wanted = sequence.keys[: sequence.known_length - 1]
        found = self.prefixes.find(wanted)
        known = sum(piece.shape[3] for piece in found)
        enough = known + MIN_SHARED
        for other in active:
            shares = other.keys[known:enough] == wanted[known:enough] and other.keys[:known] == wanted[:known]
            if shares and other.epoch == epoch and enough <= min(len(wanted), other.prompt_length):
                self.keep(other, other.prompt_length)
                found = self.prefixes.find(wanted)
                break
        sequence.cached_length = sum(piece.shape[3] for piece in found)
        return found

    def keep(self, sequence: SequenceState, length: int) -> None:
        """Keep the KV of the first `length` tokens of a sequence in progress."""
        row = row_of(sequence)
        self.prefixes.insert(sequence.keys[:length], lambda start, end: self.rows.copy_out(row, start, end))
        self.make_room(0)

    def needed(self, sequence: SequenceState) -> int:
        """Bytes of the first row of a sequence."""
        return self.rows.row_bytes(_first_length(sequence))

    def open(self, sequences: Sequence[SequenceState]) -> list[Row]:
        """Give sequences rows."""
        self.make_room(sum(map(self.needed, sequences)))
        rows = self.rows.open([_first_length(sequence) for sequence in sequences])
        for sequence, row in zip(sequences, rows, strict=True):
            sequence.row = row
        return rows

    def enlarge(self, sequences: Sequence[SequenceState]) -> bool:
        """Give sequences whose rows are full larger ones, if memory suffices.

        Returns:
            Whether it did.
        """
        full = [sequence for sequence in sequences if len(sequence.ids) > row_of(sequence).columns]
        if not full:
            return True
        more = sum(self.rows.row_bytes(len(sequence.ids)) for sequence in full)
        if more > self.free:
            return False
        self.make_room(more)
        self.rows.grow([row_of(sequence) for sequence in full], [len(sequence.ids) for sequence in full])
        return True

    def close(self, sequences: Sequence[SequenceState]) -> None:
        """Take the rows of sequences that have one."""
        self.rows.close([sequence.row for sequence in sequences if sequence.row is not None])
        for sequence in sequences:
            sequence.row = None

    def make_room(self, size: int) -> None:
        """Drop KV kept for reuse until new rows of so many bytes fit."""
        self.prefixes.shrink((self.free - size) // self.rows.token_bytes)

    def refusal(self, sequence: SequenceState) -> ModelError:
        """The error of a sequence that does not fit, even alone."""
        needed = in_words(self.rows.row_bytes(len(sequence.ids) + 1))
        return ModelError(
            f"a conversation of {len(sequence.ids)} tokens needs {needed} of KV, and the engine has "
            f"{in_words(self.limit)}; free memory, raise memory_bytes, or show fewer or smaller images"
        )


def row_of(sequence: SequenceState) -> Row:
    """The row of a sequence in progress."""
    assert sequence.row is not None
    return sequence.row


def _first_length(sequence: SequenceState) -> int:
    """Tokens for which a sequence is given memory at first: what is known, and a beginning of the reply."""
    wanted = sequence.request.sampling.max_tokens - len(sequence.logprobs)
    return sequence.known_length + 1 + max(0, min(wanted, _FIRST_TOKENS))
