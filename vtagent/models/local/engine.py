"""TransformersEngine: a Qwen vision-language model in this process that computes concurrent requests in one batch.

One worker thread owns the model while there is work, and ends when it has been idle for a while. A request that fails
does not affect the others.
"""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from os import PathLike
from typing import Any

import torch

from vtagent.errors import ModelError
from vtagent.models.codec import never_sampled
from vtagent.models.engine import Engine, Generation, Request
from vtagent.models.families import checkpoint_path, family_of
from vtagent.models.local.checkpoint import load_config, load_model
from vtagent.models.local.scheduler import Counters, Scheduler
from vtagent.models.local.sequence import prepare, set_error
from vtagent.models.processor import VLProcessor

_IDLE_SECONDS = 5.0
"""Seconds without work after which the worker thread ends."""

_GAP_SECONDS = 0.02
"""Seconds to wait for the next announced request, while the engine is idle."""

_GATHER_SECONDS = 0.5
"""Seconds to wait for all announced requests, while the engine is idle."""

_AT_WORK: weakref.WeakSet[TransformersEngine] = weakref.WeakSet()
"""The engines that have had a worker thread."""


@atexit.register
def _close_all() -> None:
    """Ends the worker threads at exit: an interpreter that ends while one of them is in torch's code aborts."""
    for engine in list(_AT_WORK):
        engine.close()


class TransformersEngine(Engine):
    """Batched sampling from a transformers model, with reuse of KV and image features.

    Args:
        model: A dense Qwen3-VL or Qwen2.5-VL, in evaluation mode, with or without PEFT adapters. It may
            be a model under training: call `forget` after each change of its weights.
        processor: The checkpoint's processor.
        max_rows: Maximum requests decoded together; more wait.
        memory_bytes: Bound on all KV, in progress and kept for reuse, and on the image features. By default four fifths
            of what a GPU has free, or half of what a CPU has. More requests than fit wait; one that never fits is
            refused.
        cache_tokens: Bound on the KV kept for reuse, in tokens, inside `memory_bytes`.
        image_cache_tokens: Bound on the image features kept for reuse, in visual tokens, inside `memory_bytes`.
        max_wave_tokens: Bound on the prompt tokens computed together.

    Attributes:
        model: The model, without PEFT's wrapper.
        processor: The checkpoint's processor.
        context: Longest prompt plus reply, in tokens.
        banned: Tokens that are never sampled.
        stop: Tokens that end every reply.

    Raises:
        ModelError: The model is not of a served family.

    Example:
        >>> engine = TransformersEngine.from_pretrained("base")  # doctest: +SKIP
        >>> engine.generate([Request(token_ids=tuple(engine.processor.tokenizer.encode("Hello")))])  # doctest: +SKIP
    """

    def __init__(
        self,
        model: Any,
        processor: VLProcessor,
        *,
        max_rows: int = 128,
        memory_bytes: int | None = None,
        cache_tokens: int = 65536,
        image_cache_tokens: int = 65536,
        max_wave_tokens: int = 16384,
    ) -> None:
        if hasattr(model, "get_base_model"):  # PEFT: the adapters are inside the layers
            model = model.get_base_model()
        family = family_of(model.config.model_type)
        tokenizer = processor.tokenizer
        self.model = model
        self.processor = processor
        self._layers = model.model.language_model.layers
        self.context: int = model.config.text_config.max_position_embeddings
        self.banned = never_sampled(tokenizer) | {model.config.image_token_id, model.config.video_token_id}
        self.stop = frozenset(_end_ids(model, tokenizer))
        self._scheduler = Scheduler(
            model,
            processor,
            family,
            max_rows=max_rows,
            max_wave_tokens=max_wave_tokens,
            memory_bytes=memory_bytes,
            cache_tokens=cache_tokens,
            image_cache_tokens=image_cache_tokens,
            banned=self.banned,
        )
        self._changed = threading.Condition()
        self._queue: list[tuple[Request, Future[Generation]]] = []
        self._announced = 0
        self._worker: threading.Thread | None = None
        self._forget = False
        self._closed = False

    @classmethod
    def from_pretrained(
        cls,
        path: str | PathLike[str],
        *,
        device: str | None = None,
        device_map: Any = None,
        dtype: torch.dtype | str | None = None,
        **options: Any,
    ) -> TransformersEngine:
        """Load a dense checkpoint: a folder, a hub id, or the name of a bundled policy.

        Args:
            path: The folder, hub id or name.
            device: By default "cuda" or "mps" if there is a GPU, else "cpu".
            device_map: Several devices, as transformers takes it: "auto" spreads the layers over all GPUs.
            dtype: By default bfloat16 on a GPU. On a CPU float32; bfloat16 if the weights are stored so and the
                processor multiplies bfloat16 in hardware.
            **options: Options of the constructor.

        Raises:
            ModelError: There is no checkpoint, it cannot be loaded, its family is not served, or a package is missing.
        """
        path = checkpoint_path(str(path))
        config = load_config(path)
        processor = VLProcessor.from_pretrained(path)
        model = load_model(path, config, device=device, device_map=device_map, dtype=dtype)
        return cls(model, processor, **options)

    def submit(self, request: Request) -> Future[Generation]:
        """Queue one request; see `Engine.submit`."""
        return self._submit([request])[0]

    @contextmanager
    def announce(self) -> Iterator[None]:
        """Announce that a request is being prepared, and submit it inside the block.

        Calls that are made at the same time are then computed together. Their prompts become ready one by one; without
        the announcement, the engine would start with the first and make the others wait. A single call is not delayed.
        """
        with self._changed:
            self._announced += 1
        try:
            yield
        finally:
            with self._changed:
                self._announced -= 1
                self._changed.notify_all()

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        """Queue several requests at once, so that they are computed together; see `Engine.generate`."""
        futures = self._submit(requests)
        wait(futures)
        return [future.result() for future in futures]

    def forget(self) -> None:
        """Drop cached KV and image features, because the weights have changed.

        Requests that are submitted after the call are computed with the new weights alone.
        """
        with self._changed:
            if self._worker is None:
                self._scheduler.forget()
            else:
                self._forget = True
                self._changed.notify_all()

    def close(self) -> None:
        """Refuse new requests, fail those in progress, and wait for the worker thread to end."""
        with self._changed:
            self._closed = True
            worker = self._worker
            self._changed.notify_all()
        if worker is not None and worker is not threading.current_thread():
            worker.join()

    @property
    def counters(self) -> Counters:
        """Tokens, passes and steps computed so far."""
        return self._scheduler.counters

    @property
    def images_encoded(self) -> int:
        """Images that went through the vision tower so far."""
        return self._scheduler.vision.encoded

    @property
    def cached_tokens(self) -> int:
        """Tokens whose KV is kept for reuse now."""
        return self._scheduler.memory.prefixes.tokens

    @property
    def unfinished_requests(self) -> int:
        """Requests that are queued, waiting for room, or being decoded."""
        with self._changed:
            return len(self._queue) + len(self._scheduler.waiting) + len(self._scheduler.active)

    def _submit(self, requests: Sequence[Request]) -> list[Future[Generation]]:
        futures: list[Future[Generation]] = [Future() for _ in requests]
        with self._changed:
            if self._closed:
                for future in futures:
                    set_error(future, ModelError("the engine is closed; load the model again"))
                return futures
            self._queue.extend(zip(requests, futures, strict=True))
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="vtagent-engine", daemon=True)
                self._worker.start()
                _AT_WORK.add(self)
            self._changed.notify_all()
        return futures

    def _work(self) -> None:
        """Run the worker thread: take queued requests and do one step at a time, until the engine is closed or idle."""
        scheduler = self._scheduler
        with torch.no_grad():
            while True:
                with self._changed:
                    while not (self._queue or scheduler.busy or self._forget or self._closed):
                        if not self._changed.wait(_IDLE_SECONDS):
                            self._worker = None
                            return
                    if not scheduler.busy:
                        self._gather()
                    if self._closed:
                        self._worker = None
                        break
                    queued, self._queue = self._queue, []
                    forget, self._forget = self._forget, False
                if forget:
                    scheduler.forget()
                for request, future in queued:
                    self._schedule(request, future)
                try:
                    scheduler.step()
                except Exception as error:  # no caller may be left waiting, whatever the error
                    self._fail_all(error)
        self._fail_all(ModelError("the engine was closed before the reply was complete"))

    def _gather(self) -> None:
        """Wait for announced requests as long as they keep arriving. The caller holds the lock."""
        end = time.monotonic() + _GATHER_SECONDS
        before: tuple[int, int] | None = None
        while self._announced and not self._closed and time.monotonic() < end:
            now = len(self._queue), self._announced
            if now == before:
                return
            before = now
            self._changed.wait(_GAP_SECONDS)

    def _schedule(self, request: Request, future: Future[Generation]) -> None:
        try:
            if self.model.training and any(getattr(layer, "gradient_checkpointing", False) for layer in self._layers):
                raise ModelError("gradient checkpointing keeps no KV; call model.eval() before sampling from the model")
            sequence = prepare(request, future, self.model.model, self.processor, context=self.context, stop=self.stop)
        except Exception as error:
            set_error(future, error)
        else:
            self._scheduler.add(sequence)

    def _fail_all(self, error: BaseException) -> None:
        with self._changed:
            queued, self._queue = self._queue, []
        waiting, self._scheduler.waiting = self._scheduler.waiting, []
        self._scheduler.fail_active(error)
        for future in [future for _, future in queued] + [sequence.future for sequence in waiting]:
            set_error(future, error)


def _end_ids(model: Any, tokenizer: Any) -> list[int]:
    eos = getattr(model.generation_config, "eos_token_id", None)
    own = eos if isinstance(eos, list) else [eos]
    known = tokenizer.get_vocab()
    ends = [*own, tokenizer.eos_token_id, known.get("<|im_end|>"), known.get("<|endoftext|>")]
    return sorted({token for token in ends if token is not None and token < model.config.text_config.vocab_size})
