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
from vtagent.models.local.kv_memory import MIN_SHARED, KVMemory, row_of
from vtagent.models.local.memory import default_bytes, is_out_of_memory, return_unused
from vtagent.models.local.sampling import BatchSampler
from vtagent.models.local.sequence import SequenceState
from vtagent.models.local.vision import VisionEncoder

if TYPE_CHECKING:
    from vtagent.models.engine import FinishReason
    from vtagent.models.processor import VLProcessor

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
    interruptions: int = 0
    """Sequences that gave their memory to others, and were computed again."""


class Scheduler:
    """The sequences that wait and those being decoded.

    Memory: the KV in progress and the KV kept for reuse share one bound. New rows take the place of what is kept; when
    nothing is left to drop, the sequences that came last are interrupted and computed again later. A sequence that does
    not fit even alone is refused.

    Args:
        model: A transformers model of a served family.
        processor: The checkpoint's processor.
        family: The model's family.
        max_rows: Maximum sequences decoded together.
        max_wave_tokens: Maximum prompt tokens of a wave, padding included.
        memory_bytes: Bound on all KV and image features. An eighth of it is for the features.
        cache_tokens: Bound on the KV kept for reuse, in tokens.
        image_cache_tokens: Bound on the image features kept for reuse, in visual tokens.
        banned: Tokens that are never sampled.

    Attributes:
        counters: What was computed so far.
        epoch: Version of the weights, counted by `forget`.
        waiting: Sequences to prefill, oldest first.
        active: Sequences being decoded.
        vision: The vision encoder with its cache.
        memory: The KV in progress and kept for reuse. Its limit falls when memory runs out before it is reached.
    """

    def __init__(
        self,
        model: Any,
        processor: VLProcessor,
        family: Family,
        *,
        max_rows: int,
        max_wave_tokens: int,
        memory_bytes: int | None,
        cache_tokens: int,
        image_cache_tokens: int,
        banned: frozenset[int],
    ) -> None:
        self.counters = Counters()
        self.epoch = 0
        self.waiting: list[SequenceState] = []
        self.active: list[SequenceState] = []
        self._decoder = Decoder(model, family, processor.image_token_id)
        self._devices = self._decoder.devices
        whole = default_bytes(self._devices) if memory_bytes is None else memory_bytes
        self.memory = KVMemory(self._decoder.kv, limit=whole - whole // 8, cache_tokens=cache_tokens)
        self.vision = VisionEncoder(model.model, processor, family, max_tokens=image_cache_tokens, max_bytes=whole // 8)
        self._max_rows = max_rows
        self._max_wave_tokens = max_wave_tokens
        self._banned = banned
        self._device: torch.device = self._decoder.device
        self._sampler: BatchSampler | None = None
        self._delayed = 0

    def forget(self) -> None:
        """Drop all caches, because the weights have changed. Sequences in progress go on, but are not cached."""
        self.epoch += 1
        self.memory.prefixes.clear()
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
        self._retire({sequence: None for sequence in self.active if sequence.future.cancelled()})
        if self.waiting and len(self.active) < self._max_rows and not self._delay_wave():
            self._admit(self._next_wave())
        if self.active:
            try:
                self._decode()
            except Exception as error:
                if not (is_out_of_memory(error) and self._make_do()):
                    self.fail_active(error)

    def fail_active(self, error: BaseException) -> None:
        """End the sequences being decoded with an error."""
        failed, self.active, self._sampler = self.active, [], None
        self.memory.close(failed)
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
        free = self.memory.free
        for place, sequence in enumerate(near):
            needed = self.memory.needed(sequence)
            if needed > self.memory.limit and not self.active and not wave:
                sequence.fail(self.memory.refusal(sequence))
                continue
            if needed > free:  # those behind it wait, too, or it would wait for ever
                self.waiting += near[place:]
                break
            self.memory.find(sequence, self.active, self.epoch)
            alike = not sequence.logprobs and any(sequence.keys == leader.keys for leader in leaders)
            if len(wave) < room and (alike or self._fits(sequence, leaders)):
                wave.append(sequence)
                free -= needed
                if not alike:
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
        new = sequence.known_length - sequence.cached_length
        first = leaders[0].known_length - leaders[0].cached_length
        longest = max(new, *(leader.known_length - leader.cached_length for leader in leaders))
        if not first <= 2 * new <= 4 * first or (len(leaders) + 1) * longest > self._max_wave_tokens:
            return False
        half = sequence.cached_length + max(MIN_SHARED, new // 2)
        if half >= sequence.known_length:
            return True
        return all(sequence.keys[:half] != leader.keys[:half] for leader in leaders)

    def _admit(self, wave: Sequence[SequenceState]) -> None:
        """Prefill a wave. If it fails, try each sequence alone, so that only the faulty one fails."""
        if not wave:
            return
        first = len(self.active)
        try:
            self._prefill(wave)
        except Exception as error:
            del self.active[first:]
            self._sampler = None
            self.memory.close(wave)
            if is_out_of_memory(error):
                self._drop_kept()
            if len(wave) == 1:
                wave[0].fail(error)
                return
            for sequence in wave:
                self._admit([sequence])

    def _prefill(self, wave: Sequence[SequenceState]) -> None:
        """Compute the different prompts of a wave, copy their KV to the equal ones, and sample the first tokens."""
        leaders: dict[tuple[int, ...] | int, SequenceState] = {}
        for sequence in wave:
            leaders.setdefault(_sharing_key(sequence), sequence)
        sequences = list(leaders.values())
        pieces = [self.memory.find(sequence, self.active, self.epoch) for sequence in sequences]
        features = self.vision.encode([image for sequence in sequences for image in needed_images(sequence)])
        place = {key: index for index, key in enumerate(leaders)}
        source = list(range(len(sequences)))
        for sequence in wave:
            if sequence not in sequences:  # an equal prompt is computed: its KV is copied
                source.append(place[_sharing_key(sequence)])
                sequence.cached_length = sequence.prompt_length
                sequences.append(sequence)
        rows = self.memory.open(sequences)
        computed = len(leaders)
        logits = self._decoder.prefill(sequences[:computed], pieces, features, rows[:computed])
        self.counters.prefill_passes += 1
        for number, (sequence, origin) in enumerate(zip(sequences, source, strict=True)):
            if number != origin:
                self.memory.rows.copy(rows[origin], rows[number], sequence.prompt_length)
            if sequence.computed is None:
                sequence.computed = sequence.prompt_length - sequence.cached_length
                self.counters.prompt_tokens += sequence.prompt_length
            self.counters.prefilled_tokens += sequence.known_length - sequence.cached_length
        self.active.extend(sequences)
        self._sampler = None
        fresh = [number for number, sequence in enumerate(sequences) if not sequence.logprobs]
        if fresh:
            begun = [sequences[number] for number in fresh]
            self._sample(begun, logits[[source[number] for number in fresh]], self._sampler_of(begun))

    def _decode(self) -> None:
        """Feed the token sampled last to every active sequence, and sample the next one."""
        self._make_room()
        active = self.active
        if not active:
            return
        if self._sampler is None:
            self._sampler = self._sampler_of(active)
        tokens = torch.tensor([sequence.ids[-1] for sequence in active], device=self._device)
        positions = torch.tensor([sequence.kv_length + sequence.offset for sequence in active], device=self._device)
        logits = self._decoder.step(
            tokens, [sequence.kv_length for sequence in active], positions, [row_of(sequence) for sequence in active]
        )
        self.counters.decode_steps += 1
        self._sample(active, logits, self._sampler)

    def _make_room(self) -> None:
        """Enlarge the rows that are full. If memory does not suffice, interrupt the sequences that came last."""
        while not self.memory.enlarge(self.active):
            if len(self.active) == 1:
                self.fail_active(self.memory.refusal(self.active[0]))
                return
            self._interrupt(1)

    def _make_do(self) -> bool:
        """After memory ran out in a step: drop what is kept, and go on with half of the sequences.

        Returns:
            Whether that is possible.
        """
        self._drop_kept()
        if len(self.active) < 2:
            return False
        self._interrupt(len(self.active) // 2)
        self.memory.limit = max(self.memory.rows.bytes, self.memory.limit // 2)
        return True

    def _interrupt(self, count: int) -> None:
        """Let the sequences that came last wait again, in front of the others. What they sampled stays."""
        kept = len(self.active) - count
        interrupted = self.active[kept:]
        del self.active[kept:]
        self._sampler = None
        self.memory.close(interrupted)
        self.waiting[:0] = interrupted
        self.counters.interruptions += count

    def _drop_kept(self) -> None:
        self.memory.prefixes.shrink(0)
        self.vision.clear()
        return_unused(self._devices)

    def _sample(self, sequences: Sequence[SequenceState], logits: torch.Tensor, sampler: BatchSampler) -> None:
        """Sample the next token of sequences, and retire those that end with it.

        Args:
            sequences: Some of the active ones.
            logits: (sequences, vocabulary), floating point.
            sampler: With the settings of these sequences.
        """
        ended: dict[SequenceState, FinishReason | BaseException | None] = {}
        tokens, logprobs = sampler(logits)
        self.counters.sampled_tokens += len(sequences)
        for sequence, token, logprob in zip(sequences, tokens, logprobs, strict=True):
            try:
                if logprob != logprob:
                    raise ModelError("the model's output is not a number; its weights or its dtype are at fault")
                reason = sequence.append(token, logprob)
            except Exception as error:
                ended[sequence] = error
                continue
            if reason is not None:
                ended[sequence] = reason
        self._retire(ended)

    def _retire(self, ended: dict[SequenceState, FinishReason | BaseException | None]) -> None:
        """Free the rows of sequences, and keep their KV for reuse.

        Args:
            ended: Why each sequence ended; None for one that was cancelled.
        """
        if not ended:
            return
        self._sampler = None
        self.active = [sequence for sequence in self.active if sequence not in ended]
        for sequence, outcome in ended.items():
            if not isinstance(outcome, BaseException):
                self._cache(sequence, sequence.kv_length)
        self.memory.close(list(ended))
        for sequence, outcome in ended.items():
            if isinstance(outcome, BaseException):
                sequence.fail(outcome)
            elif outcome is not None:
                sequence.finish(outcome)

    def _cache(self, sequence: SequenceState, length: int) -> None:
        """Keep the KV of a sequence's first `length` tokens, unless the weights have changed since it started."""
        if sequence.epoch == self.epoch:
            self.memory.keep(sequence, length)

    def _sampler_of(self, sequences: Sequence[SequenceState]) -> BatchSampler:
        settings = [sequence.request.sampling for sequence in sequences]
        streams = [sequence.stream for sequence in sequences]
        decisions = [sequence.decision for sequence in sequences]
        texts = [sequence.ids for sequence in sequences]
        return BatchSampler(settings, streams, self._banned, self._device, decisions, texts)


def _sharing_key(sequence: SequenceState) -> tuple[int, ...] | int:
    """Equal for sequences whose KV is computed once; one that was interrupted is computed by itself."""
    return id(sequence) if sequence.logprobs else tuple(sequence.keys)
