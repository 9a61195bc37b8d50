"""Which rows are computed together: waves of prefill, then one decode step for all rows, over and over.

A wave takes the waiting prompts that go well together. Identical prompts (a GRPO group) are prefilled once; a prompt
most of which another one of the wave is about to compute waits for the next wave and finds it in the cache.
Nothing here is thread-safe: one thread owns a scheduler.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from vtagent.errors import ModelError
from vtagent.models.local.decoder import Decoder, needed_images
from vtagent.models.local.prefix_cache import PrefixCache
from vtagent.models.local.sampling import BatchSampler
from vtagent.models.local.sequence import SequenceState
from vtagent.models.local.vision import VisionEncoder

if TYPE_CHECKING:
    from vtagent.models.engine import FinishReason
    from vtagent.models.processor import VLProcessor

_SHARED = 32
"""A prompt waits for another one only if at least so many tokens are saved."""

_HOLD = 8
"""Decode steps that a small wave waits for company: rows that end together come back together."""

_NEAR = 16
"""How far past the room that there is a wave looks for rows that go well with the oldest."""


@dataclass
class Counters:
    """What an engine has computed so far, in tokens, images and passes."""

    prompt_tokens: int = 0
    prefilled_tokens: int = 0
    sampled_tokens: int = 0
    prefill_passes: int = 0
    decode_steps: int = 0


class Scheduler:
    """Rows waiting and rows being decoded, row i of the batch in slot i."""

    def __init__(
        self,
        model: Any,
        processor: VLProcessor,
        *,
        deepstack: bool,
        max_rows: int,
        max_wave_tokens: int,
        cache_tokens: int,
        image_cache_tokens: int,
        banned: frozenset[int],
    ) -> None:
        self.counters = Counters()
        self.epoch = 0
        self.waiting: list[SequenceState] = []
        self.active: list[SequenceState] = []
        self.vision = VisionEncoder(model.model, processor, max_tokens=image_cache_tokens)
        self.prefixes = PrefixCache(cache_tokens)
        self._decoder = Decoder(model, processor.image_token_id, deepstack=deepstack)
        self._max_rows = max_rows
        self._max_wave_tokens = max_wave_tokens
        self._banned = banned
        self._device: torch.device = model.device
        self._sampler: BatchSampler | None = None
        self._held = 0

    def forget(self) -> None:
        """Drop all caches: the weights have changed. Rows under way go on but leave nothing behind."""
        self.epoch += 1
        self.prefixes.clear()
        self.vision.clear()

    def add(self, row: SequenceState) -> None:
        """Queue a row."""
        row.epoch = self.epoch
        self.waiting.append(row)

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.waiting or self.active)

    def turn(self) -> None:
        """One wave of prefill if anyone waits and there is room, then one decode step."""
        self.waiting = [row for row in self.waiting if not row.future.cancelled()]
        self._retire({place: None for place, row in enumerate(self.active) if row.future.cancelled()})
        if self.waiting and len(self.active) < self._max_rows and not self._hold_back():
            self._admit(self._next_wave())
        if self.active:
            try:
                self._step()
            except Exception as error:
                self.fail_active(error)
        if not self.busy:
            self._decoder.kv.release()

    def fail_active(self, error: BaseException) -> None:
        """Give up on the rows being decoded."""
        gone, self.active, self._sampler = self.active, [], None
        for row in gone:
            row.fail(error)

    def _hold_back(self) -> bool:
        """Whether a wave that is small beside what is being decoded waits for company: one row costs a pass, too."""
        small = 4 * len(self.waiting) < len(self.active)
        self._held = self._held + 1 if small and self._held < _HOLD else 0
        return self._held > 0

    def _next_wave(self) -> list[SequenceState]:
        """Take rows out of the queue: the oldest, and those near it in line that go well with it."""
        room = self._max_rows - len(self.active)
        near, later = self.waiting[: 2 * room + _NEAR], self.waiting[2 * room + _NEAR :]
        self.waiting = []
        wave: list[SequenceState] = []
        leaders: list[SequenceState] = []
        for row in near:
            row.cached = sum(piece.shape[3] for piece in self.prefixes.find(row.keys[: row.prompt - 1]))
            if len(wave) < room and any(row.keys == leader.keys for leader in leaders):
                wave.append(row)
            elif len(wave) < room and self._goes_with(row, leaders):
                wave.append(row)
                leaders.append(row)
            else:
                self.waiting.append(row)
        self.waiting += later
        return wave

    def _goes_with(self, row: SequenceState, leaders: Sequence[SequenceState]) -> bool:
        """Whether a row's prefill fits a wave: its work is of the size of the others', and not done by one of them."""
        if not leaders:
            return True
        new, first = row.prompt - row.cached, leaders[0].prompt - leaders[0].cached
        longest = max(new, *(leader.prompt - leader.cached for leader in leaders))
        if not first <= 2 * new <= 4 * first or (len(leaders) + 1) * longest > self._max_wave_tokens:
            return False
        half = row.cached + max(_SHARED, new // 2)
        return half >= row.prompt or all(row.keys[:half] != leader.keys[:half] for leader in leaders)

    def _admit(self, wave: Sequence[SequenceState]) -> None:
        """Prefill a wave. If it fails, each row is tried alone, so that only the one at fault goes."""
        first = len(self.active)
        try:
            self._prefill(wave)
        except Exception as error:
            del self.active[first:]
            self._sampler = None
            if len(wave) == 1:
                wave[0].fail(error)
                return
            for row in wave:
                self._admit([row])

    def _prefill(self, wave: Sequence[SequenceState]) -> None:
        leaders: dict[tuple[int, ...], SequenceState] = {}
        for row in wave:
            leaders.setdefault(tuple(row.keys), row)
        rows = list(leaders.values())
        pieces = [self.prefixes.find(row.keys[: row.prompt - 1]) for row in rows]
        for row, found in zip(rows, pieces, strict=True):
            row.cached = sum(piece.shape[3] for piece in found)
        features = self.vision.encode([image for row in rows for image in needed_images(row)])
        first = len(self.active)
        logits = self._decoder.prefill(rows, pieces, features, first)
        self.counters.prefill_passes += 1
        place = {tuple(row.keys): index for index, row in enumerate(rows)}
        source = list(range(len(rows)))
        for row in wave:
            if row not in rows:  # the same prompt once more: copy what was computed
                source.append(place[tuple(row.keys)])
                row.cached = row.prompt
                rows.append(row)
        kv = self._decoder.kv
        kv.reserve(first + len(rows), max(row.prompt for row in rows) + 1)
        for slot, (row, origin) in enumerate(zip(rows, source, strict=True)):
            if slot != origin:
                kv.move(first + origin, first + slot, row.prompt)
            else:
                self._remember(row, first + slot, row.prompt)
            self.counters.prompt_tokens += row.prompt
            self.counters.prefilled_tokens += row.prompt - row.cached
        self.active.extend(rows)
        self._sampler = None
        self._take(rows, logits[source], self._sampler_of(rows), first)

    def _step(self) -> None:
        rows = self.active
        if self._sampler is None:
            self._sampler = self._sampler_of(rows)
        tokens = torch.tensor([row.ids[-1] for row in rows], device=self._device)
        lengths = torch.tensor([row.length for row in rows], device=self._device)
        positions = torch.tensor([row.length + row.offset for row in rows], device=self._device)
        logits = self._decoder.step(tokens, lengths, positions, max(row.length for row in rows) + 1)
        self.counters.decode_steps += 1
        self._take(rows, logits, self._sampler, 0)

    def _take(self, rows: Sequence[SequenceState], logits: torch.Tensor, sampler: BatchSampler, first: int) -> None:
        """Sample the next token of the rows in slots `first`, `first` + 1, …, and retire those that end with it."""
        ended: dict[int, FinishReason | BaseException | None] = {}
        tokens, logprobs = sampler(logits)
        self.counters.sampled_tokens += len(rows)
        for slot, (row, token, logprob) in enumerate(zip(rows, tokens, logprobs, strict=True), first):
            try:
                if logprob != logprob:
                    raise ModelError("the model's output is not a number; its weights or its dtype are at fault")
                reason = row.append(token, logprob)
            except Exception as error:
                ended[slot] = error
                continue
            if reason is not None:
                ended[slot] = reason
        self._retire(ended)

    def _retire(self, ended: dict[int, FinishReason | BaseException | None]) -> None:
        """Take rows out of their slots, the last row moving into each gap; with None the row just goes (cancelled)."""
        if not ended:
            return
        self._sampler = None
        for slot in sorted(ended, reverse=True):
            row, outcome = self.active[slot], ended[slot]
            if isinstance(outcome, BaseException):
                row.fail(outcome)
            elif outcome is not None:
                self._remember(row, slot, row.length)
                row.finish(outcome)
            last = len(self.active) - 1
            if slot != last:
                self.active[slot] = self.active[last]
                self._decoder.kv.move(last, slot, self.active[slot].length)
            self.active.pop()

    def _remember(self, row: SequenceState, slot: int, length: int) -> None:
        if row.epoch == self.epoch:
            kv = self._decoder.kv
            self.prefixes.insert(row.keys[:length], lambda start, end: kv.copy_out(slot, start, end))

    def _sampler_of(self, rows: Sequence[SequenceState]) -> BatchSampler:
        return BatchSampler(
            [row.request.sampling for row in rows], [row.stream for row in rows], self._banned, self._device
        )
