"""Decides which sequences are computed together: one wave of prefill, then one decode step for all, repeatedly.

A wave is a batch of waiting prompts that are prefilled together. Equal prompts (a GRPO group) are prefilled once. A
prompt that shares most of its tokens with another one of the wave waits for the next wave and finds them in the cache.
Nothing here is thread-safe: one thread owns a scheduler.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from vtagent.errors import ModelError
from vtagent.models.families import Family
from vtagent.models.local.decoder import Decoder, needed_images
from vtagent.models.local.prefix_cache import PrefixCache
from vtagent.models.local.sampling import BatchSampler
from vtagent.models.local.sequence import SequenceState
from vtagent.models.local.vision import VisionEncoder

if TYPE_CHECKING:
    from vtagent.models.engine import FinishReason
    from vtagent.models.processor import VLProcessor

_MIN_SHARED = 32
"""A prompt waits for another one only if that saves at least this many tokens."""

_MAX_DELAY = 8
"""Maximum decode steps to delay a small wave so that others can join it."""

_LOOKAHEAD = 16
"""How many waiting sequences beyond twice the free rows are examined for a wave."""


@dataclass
class Counters:
    """What an engine has computed so far."""

    prompt_tokens: int = 0
    """Tokens of all prompts, with their images expanded."""
    prefilled_tokens: int = 0
    """Tokens of them that were computed; the others came from the cache, or from an equal prompt of the same wave."""
    sampled_tokens: int = 0
    """Tokens of all replies."""
    prefill_passes: int = 0
    """Waves that were prefilled."""
    decode_steps: int = 0
    """Decode steps, each for all sequences in progress."""


class Scheduler:
    """The sequences that wait and those being decoded. Sequence i of `active` is in slot i of the KV.

    Args:
        model: A transformers model of a served family.
        processor: The checkpoint's processor.
        family: The model's family.
        max_rows: Maximum sequences decoded together.
        max_wave_tokens: Maximum prompt tokens of a wave, padding included.
        cache_tokens: Bound on the KV kept for reuse, in tokens.
        image_cache_tokens: Bound on the image features kept for reuse, in visual tokens.
        banned: Tokens that are never sampled.

    Attributes:
        counters: What was computed so far.
        epoch: Version of the weights, counted by `forget`.
        waiting: Sequences to prefill, oldest first.
        active: Sequences being decoded.
        vision: The vision encoder with its cache.
        prefixes: The KV kept for reuse.
    """

    def __init__(
        self,
        model: Any,
        processor: VLProcessor,
        family: Family,
        *,
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
        self.vision = VisionEncoder(model.model, processor, family, max_tokens=image_cache_tokens)
        self.prefixes = PrefixCache(cache_tokens)
        self._decoder = Decoder(model, family, processor.image_token_id)
        self._max_rows = max_rows
        self._max_wave_tokens = max_wave_tokens
        self._banned = banned
        self._device: torch.device = model.device
        self._sampler: BatchSampler | None = None
        self._delayed = 0

    def forget(self) -> None:
        """Drop all caches, because the weights have changed. Sequences in progress go on, but are not cached."""
        self.epoch += 1
        self.prefixes.clear()
        self.vision.clear()

    def add(self, sequence: SequenceState) -> None:
        """Queue a sequence."""
        sequence.epoch = self.epoch
        self.waiting.append(sequence)

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.waiting or self.active)

    def step(self) -> None:
        """Prefill one wave if sequences wait and there is room, then do one decode step."""
        self.waiting = [sequence for sequence in self.waiting if not sequence.future.cancelled()]
        self._retire({slot: None for slot, sequence in enumerate(self.active) if sequence.future.cancelled()})
        if self.waiting and len(self.active) < self._max_rows and not self._delay_wave():
            self._admit(self._next_wave())
        if self.active:
            try:
                self._decode()
            except Exception as error:
                self.fail_active(error)
        if not self.busy:
            self._decoder.kv.release()

    def fail_active(self, error: BaseException) -> None:
        """End the sequences being decoded with an error."""
        failed, self.active, self._sampler = self.active, [], None
        for sequence in failed:
            sequence.fail(error)

    def _delay_wave(self) -> bool:
        """Whether to wait for more sequences: even a prefill of one interrupts all that are being decoded."""
        small = 4 * len(self.waiting) < len(self.active)
        self._delayed = self._delayed + 1 if small and self._delayed < _MAX_DELAY else 0
        return self._delayed > 0

    def _next_wave(self) -> list[SequenceState]:
        """Take a wave out of the queue: the oldest sequence, and those near it that fit."""
        room = self._max_rows - len(self.active)
        near, later = self.waiting[: 2 * room + _LOOKAHEAD], self.waiting[2 * room + _LOOKAHEAD :]
        self.waiting = []
        wave: list[SequenceState] = []
        leaders: list[SequenceState] = []
        for sequence in near:
            found = self.prefixes.find(sequence.keys[: sequence.prompt_length - 1])
            sequence.cached_length = sum(piece.shape[3] for piece in found)
            if len(wave) < room and any(sequence.keys == leader.keys for leader in leaders):
                wave.append(sequence)
            elif len(wave) < room and self._fits(sequence, leaders):
                wave.append(sequence)
                leaders.append(sequence)
            else:
                self.waiting.append(sequence)
        self.waiting += later
        return wave

    def _fits(self, sequence: SequenceState, leaders: Sequence[SequenceState]) -> bool:
        """Whether a prompt may join a wave with other prompts (`leaders`).

        It must need about as many tokens as the first, keep the padded wave within its bound, and share less than half
        of its new tokens with another prompt.
        """
        if not leaders:
            return True
        new = sequence.prompt_length - sequence.cached_length
        first = leaders[0].prompt_length - leaders[0].cached_length
        longest = max(new, *(leader.prompt_length - leader.cached_length for leader in leaders))
        if not first <= 2 * new <= 4 * first or (len(leaders) + 1) * longest > self._max_wave_tokens:
            return False
        half = sequence.cached_length + max(_MIN_SHARED, new // 2)
        if half >= sequence.prompt_length:
            return True
        return all(sequence.keys[:half] != leader.keys[:half] for leader in leaders)

    def _admit(self, wave: Sequence[SequenceState]) -> None:
        """Prefill a wave. If it fails, try each sequence alone, so that only the faulty one fails."""
        first = len(self.active)
        try:
            self._prefill(wave)
        except Exception as error:
            del self.active[first:]
            self._sampler = None
            if len(wave) == 1:
                wave[0].fail(error)
                return
            for sequence in wave:
                self._admit([sequence])

    def _prefill(self, wave: Sequence[SequenceState]) -> None:
        """Compute the different prompts of a wave, copy their KV to the equal ones, and sample the first tokens."""
        leaders: dict[tuple[int, ...], SequenceState] = {}
        for sequence in wave:
            leaders.setdefault(tuple(sequence.keys), sequence)
        sequences = list(leaders.values())
        pieces = [self.prefixes.find(sequence.keys[: sequence.prompt_length - 1]) for sequence in sequences]
        for sequence, found in zip(sequences, pieces, strict=True):
            sequence.cached_length = sum(piece.shape[3] for piece in found)
        features = self.vision.encode([image for sequence in sequences for image in needed_images(sequence)])
        first = len(self.active)
        logits = self._decoder.prefill(sequences, pieces, features, first)
        self.counters.prefill_passes += 1
        place = {tuple(sequence.keys): index for index, sequence in enumerate(sequences)}
        source = list(range(len(sequences)))
        for sequence in wave:
            if sequence not in sequences:  # an equal prompt was computed: its KV is copied
                source.append(place[tuple(sequence.keys)])
                sequence.cached_length = sequence.prompt_length
                sequences.append(sequence)
        kv = self._decoder.kv
        kv.reserve(first + len(sequences), max(sequence.prompt_length for sequence in sequences) + 1)
        for slot, (sequence, origin) in enumerate(zip(sequences, source, strict=True)):
            if slot != origin:
                kv.move(first + origin, first + slot, sequence.prompt_length)
            else:
                self._cache(sequence, first + slot, sequence.prompt_length)
            self.counters.prompt_tokens += sequence.prompt_length
            self.counters.prefilled_tokens += sequence.prompt_length - sequence.cached_length
        self.active.extend(sequences)
        self._sampler = None
        self._sample(sequences, logits[source], self._sampler_of(sequences), first)

    def _decode(self) -> None:
        """Feed the token sampled last to every active sequence, and sample the next one."""
        active = self.active
        if self._sampler is None:
            self._sampler = self._sampler_of(active)
        tokens = torch.tensor([sequence.ids[-1] for sequence in active], device=self._device)
        lengths = torch.tensor([sequence.kv_length for sequence in active], device=self._device)
        positions = torch.tensor([sequence.kv_length + sequence.offset for sequence in active], device=self._device)
        width = max(sequence.kv_length for sequence in active) + 1
        logits = self._decoder.step(tokens, lengths, positions, width)
        self.counters.decode_steps += 1
        self._sample(active, logits, self._sampler, 0)

    def _sample(
        self, sequences: Sequence[SequenceState], logits: torch.Tensor, sampler: BatchSampler, first: int
    ) -> None:
        """Sample the next token of sequences, and retire those that end with it.

        Args:
            sequences: In the slots `first`, `first` + 1, ….
            logits: (sequences, vocabulary), floating point.
            sampler: With the settings of these sequences.
            first: Slot of the first one.
        """
        ended: dict[int, FinishReason | BaseException | None] = {}
        tokens, logprobs = sampler(logits)
        self.counters.sampled_tokens += len(sequences)
        for slot, (sequence, token, logprob) in enumerate(zip(sequences, tokens, logprobs, strict=True), first):
            try:
                if logprob != logprob:
                    raise ModelError("the model's output is not a number; its weights or its dtype are at fault")
                reason = sequence.append(token, logprob)
            except Exception as error:
                ended[slot] = error
                continue
            if reason is not None:
                ended[slot] = reason
        self._retire(ended)

    def _retire(self, ended: dict[int, FinishReason | BaseException | None]) -> None:
        """Remove sequences from their slots, and move the last sequence into each gap.

        Args:
            ended: By slot, why the sequence ended; None for one that was cancelled.
        """
        if not ended:
            return
        self._sampler = None
        for slot in sorted(ended, reverse=True):
            sequence, outcome = self.active[slot], ended[slot]
            if isinstance(outcome, BaseException):
                sequence.fail(outcome)
            elif outcome is not None:
                self._cache(sequence, slot, sequence.kv_length)
                sequence.finish(outcome)
            last = len(self.active) - 1
            if slot != last:
                self.active[slot] = self.active[last]
                self._decoder.kv.move(last, slot, self.active[slot].kv_length)
            self.active.pop()

    def _cache(self, sequence: SequenceState, slot: int, length: int) -> None:
        """Keep the KV of a sequence's first `length` tokens, unless the weights have changed since it started."""
        if sequence.epoch == self.epoch:
            kv = self._decoder.kv
            self.prefixes.insert(sequence.keys[:length], lambda start, end: kv.copy_out(slot, start, end))

    def _sampler_of(self, sequences: Sequence[SequenceState]) -> BatchSampler:
        settings = [sequence.request.sampling for sequence in sequences]
        streams = [sequence.stream for sequence in sequences]
        decisions = [sequence.decision for sequence in sequences]
        return BatchSampler(settings, streams, self._banned, self._device, decisions)
