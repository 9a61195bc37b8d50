"""One request inside the engine: its expanded prompt, its rotary positions, and what was sampled so far."""

from __future__ import annotations

import random
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from vtagent.errors import ModelError, VtagentError, described
from vtagent.models.decision import Decision
from vtagent.models.engine import FinishReason, Generation, Request, Sampling
from vtagent.models.placeholders import cache_keys, expand, image_spans

if TYPE_CHECKING:
    from vtagent.models.local.kv_cache import Row
    from vtagent.models.processor import VLProcessor


@dataclass(eq=False)
class SequenceState:
    """A request that was checked and expanded."""

    request: Request
    future: Future[Generation]
    ids: list[int]
    """The expanded prompt, then the sampled tokens."""
    keys: list[int]
    """The same for the prefix cache, with a number of the image in place of its placeholders."""
    prompt_length: int
    """Length of the expanded prompt, in tokens."""
    spans: list[tuple[int, int]]
    """Start and end of each image in the expanded prompt."""
    positions: torch.Tensor
    """(3, prompt_length) int64: rotary positions of the prompt (time, height, width)."""
    offset: int
    """The n-th token has rotary position n + offset, for n past the prompt."""
    context: int
    """Maximum length of the sequence, in tokens."""
    stop: frozenset[int]
    """Tokens that end the reply."""
    stream: random.Random
    """Source of the sequence's random numbers."""
    decision: Decision | None = None
    """Where the reply stands, if it has a call bias."""
    epoch: int = 0
    """Version of the weights that the sequence was started with."""
    cached_length: int = 0
    """Tokens at the start whose KV was found in the cache."""
    row: Row | None = None
    """Where its KV is; None while it waits."""
    computed: int | None = None
    """Tokens of the prompt that were computed for it; None before its first prefill."""
    logprobs: list[float] = field(default_factory=list)
    """One per sampled token."""

    @property
    def sampled(self) -> list[int]:
        """The tokens sampled so far."""
        return self.ids[self.prompt_length :]

    @property
    def known_length(self) -> int:
        """Tokens to compute before the next one is sampled or fed.

        They are the prompt; of a sequence that was interrupted, all but the token sampled last.
        """
        return self.kv_length if self.logprobs else self.prompt_length

    def known_positions(self) -> torch.Tensor:
        """Rotary positions from the cached length to the known length: (3, tokens) int64."""
        past = torch.arange(max(self.prompt_length, self.cached_length), self.known_length) + self.offset
        return torch.cat([self.positions[:, self.cached_length :], past.expand(3, -1)], dim=1)

    @property
    def kv_length(self) -> int:
        """Tokens whose KV is known: all but the one sampled last."""
        return len(self.ids) - 1

    def append(self, token: int, logprob: float) -> FinishReason | None:
        """Add a sampled token.

        Returns:
            Why the sequence ends with it, or None.

        Raises:
            Exception: Whatever the request's `on_token` raises.
        """
        self.ids.append(token)
        self.keys.append(token)
        self.logprobs.append(logprob)
        if self.decision is not None:
            self.decision.push(token)
        told_to_stop = self.request.on_token is not None and self.request.on_token(token)
        if token in self.stop or told_to_stop:
            return "stop"
        if len(self.logprobs) >= self.request.sampling.max_tokens or len(self.ids) >= self.context:
            return "length"
        return None

    def finish(self, reason: FinishReason) -> None:
        """Give the caller the reply."""
        reply = Generation(
            token_ids=tuple(self.sampled),
            logprobs=tuple(self.logprobs),
            finish_reason=reason,
            prompt_tokens=self.prompt_length,
            image_tokens=sum(end - start for start, end in self.spans),
            prefilled_tokens=self.computed or 0,
        )
        with suppress(InvalidStateError):  # the caller has cancelled it
            self.future.set_result(reply)

    def fail(self, error: BaseException) -> None:
        """Give the caller an error."""
        set_error(self.future, error)


def prepare(
    request: Request,
    future: Future[Generation],
    model: Any,
    processor: VLProcessor,
    *,
    context: int,
    stop: frozenset[int],
) -> SequenceState:
    """Check a request and expand its prompt.

    Args:
        request: The request.
        future: Where its reply goes.
        model: The model without its head; its `get_rope_index` gives the positions.
        processor: The checkpoint's processor.
        context: Maximum length of prompt and reply, in tokens.
        stop: Tokens that end every reply.

    Raises:
        ModelError: The request cannot be served.
    """
    vocabulary = model.config.text_config.vocab_size
    _check(request.sampling, vocabulary)
    if not request.token_ids:
        raise ModelError("the prompt is empty; send at least one message")
    vision, image_token_id = processor.vision, processor.image_token_id
    ids = expand(request.token_ids, request.images, vision, image_token_id)
    if not 0 <= min(ids) <= max(ids) < vocabulary:
        raise ModelError(f"the prompt has token ids outside 0…{vocabulary - 1}; is this another model's tokenizer?")
    if len(ids) >= context:
        raise ModelError(f"the prompt has {len(ids)} tokens, but the model's context ends at {context}, reply included")
    tensor = torch.tensor([ids])
    is_image = torch.eq(tensor, image_token_id).int()
    grids = [vision.grid(*image.pixels.size) for image in request.images]
    positions, offset = model.get_rope_index(
        tensor, mm_token_type_ids=is_image, image_grid_thw=torch.tensor(grids) if grids else None
    )
    call_bias = request.sampling.call_bias
    return SequenceState(
        request=request,
        future=future,
        ids=ids,
        keys=list(cache_keys(ids, request.images, image_token_id)),
        prompt_length=len(ids),
        spans=image_spans(ids, image_token_id),
        positions=positions[:, 0],
        offset=int(offset[0, 0]),
        context=context,
        stop=stop | request.sampling.stop,
        stream=random.Random(request.sampling.seed),
        decision=None if call_bias is None else Decision(call_bias),
    )


def _check(sampling: Sampling, vocabulary: int) -> None:
    if sampling.max_tokens < 1:
        raise ModelError(f"max_tokens is {sampling.max_tokens}; ask for at least one token")
    if sampling.temperature < 0 or not 0 < sampling.top_p <= 1 or sampling.top_k < 0:
        raise ModelError("temperature and top_k must be 0 or more, and top_p between 0 and 1")
    if not sampling.repetition_penalty > 0:
        raise ModelError(f"repetition_penalty is {sampling.repetition_penalty}; it must be above 0, and 1 is none")
    steered = sampling.banned | sampling.logit_bias.keys()
    if sampling.call_bias is not None:
        steered |= {sampling.call_bias.call_id, sampling.call_bias.thought_id}
    if any(not 0 <= token < vocabulary for token in steered):
        raise ModelError(f"logit_bias or banned names a token that is not one of the model's 0…{vocabulary - 1}")


def set_error(future: Future[Generation], error: BaseException) -> None:
    """Set the error of a request, unless the caller has cancelled it.

    Args:
        future: The request's.
        error: A VtagentError stays as it is; any other error becomes a one-line ModelError with the error as its cause.
    """
    if not isinstance(error, VtagentError):
        wrapped = ModelError(f"the model failed: {described(error)}")
        wrapped.__cause__ = error
        error = wrapped
    with suppress(InvalidStateError):
        future.set_exception(error)
