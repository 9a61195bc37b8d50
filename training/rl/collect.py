"""Rollouts are runs of the compiled graph, a batch of them side by side, each with its own seed and time limit.

All runs share one engine, which computes their calls together. A run that raises, hangs or breaks the record of what
was sampled becomes a rollout with an `error`; the others never notice.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Any, TypeVar

from langchain_core.messages import AIMessage, HumanMessage

from vtagent.errors import ModelError, VtagentError
from vtagent.graphs.zoom import ZoomContext, create_zoom_agent
from vtagent.images import MemoryImageStore
from vtagent.models.chat import ChatVLM
from vtagent.models.engine import Engine, Generation, Request
from vtagent.protocol import is_well_formed, reply_of
from vtagent.training.data import Example
from vtagent.training.rl.rollout import Rollout, Turn
from vtagent.views import View

T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """One run to make."""

    example: Example
    seed: int
    """All that the run samples follows from it and from the weights."""


class Tap:
    """One run's door to the engine: seeds each reply on its own, and remembers what was asked and what was sampled.

    One seed for all replies would hand the second reply the very random numbers that decided the first one.
    """

    def __init__(self, engine: Engine, seed: int, banned: frozenset[int]) -> None:
        self.context = getattr(engine, "context", None)
        self.announced: Callable[[], AbstractContextManager[None]] = getattr(engine, "announced", nullcontext)
        self.exchanges: list[tuple[Request, Future[Generation]]] = []
        self._engine, self._seed, self._banned = engine, seed, banned

    def submit(self, request: Request) -> Future[Generation]:
        """See `Engine.submit`."""
        seed = random.Random(f"{self._seed}/{len(self.exchanges)}").getrandbits(48)
        sampling = replace(request.sampling, seed=seed, banned=request.sampling.banned | self._banned)
        request = replace(request, sampling=sampling)
        future = self._engine.submit(request)
        self.exchanges.append((request, future))
        return future

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        """See `Engine.generate`."""
        return [future.result() for future in [self.submit(request) for request in requests]]

    def close(self) -> None:
        """Nothing: the engine belongs to all runs."""

    def turns(self) -> tuple[Turn, ...]:
        """What the run's calls were, each as what it added to the one before.

        Raises:
            ModelError: a prompt that does not continue what was said before, so that no row can be made of the run.
        """
        turns: list[Turn] = []
        said: tuple[int, ...] = ()
        for request, future in self.exchanges:
            generation = future.result()
            if request.token_ids[: len(said)] != said:
                raise ModelError(
                    f"the prompt of reply {len(turns) + 1} does not begin with all that was said before; a node of the "
                    "graph has rewritten the conversation, so its tokens cannot be trained on"
                )
            turns.append(
                Turn(
                    prompt_ids=request.token_ids[len(said) :],
                    completion_ids=generation.token_ids,
                    logprobs=generation.logprobs,
                    finish_reason=generation.finish_reason,
                    images=request.images,
                )
            )
            said = request.token_ids + generation.token_ids
        return tuple(turns)


class Collector:
    """Runs a graph on batches of examples, in an event loop and threads of its own.

    Args:
        model: The policy; its temperature, top_p, top_k and max_tokens hold for every reply.
        context: The settings of every run; its `model` is replaced.
        banned: Tokens that no engine may sample: those that stand for images.
        limit: Seconds a run may take before it is given up.
        concurrency: Runs under way together.
        build: Makes the graph; it must use the model of the run's context, as ours does.
    """

    def __init__(
        self,
        model: ChatVLM,
        *,
        context: ZoomContext,
        banned: frozenset[int] = frozenset(),
        limit: float = 600.0,
        concurrency: int = 256,
        build: Callable[[ChatVLM], Any] = create_zoom_agent,
    ) -> None:
        self.model = model
        self._context, self._banned, self._limit, self._concurrency = context, banned, limit, concurrency
        self._agent = build(model)
        _ = model._serialized  # LangChain's description of a model; computed here once, not by every run's copy
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(_DaemonThreads())
        self._thread = threading.Thread(target=self._serve, name="vtagent-rollouts", daemon=True)
        self._thread.start()

    def collect(self, jobs: Sequence[Job]) -> list[Rollout]:
        """Make all runs and wait for them; one rollout per job, in their order, failed ones included."""
        if isinstance(self.model.store, WorkingStore):
            self.model.store.clear()
        return self.wait(self._collect(jobs))

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine that runs in the collector's loop; an interrupt cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """End the event loop. A tool that hangs keeps its thread until the process ends, and does not delay that."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def _serve(self) -> None:
        self._loop.run_forever()
        self._loop.close()

    async def _collect(self, jobs: Sequence[Job]) -> list[Rollout]:
        gate = asyncio.Semaphore(self._concurrency)

        async def one(job: Job) -> Rollout:
            async with gate:
                return await self._run(job)

        return list(await asyncio.gather(*(one(job) for job in jobs)))

    async def _run(self, job: Job) -> Rollout:
        tap = Tap(self.model.engine, job.seed, self._banned)
        start = time.perf_counter()
        error: str | None = None
        try:
            state = await asyncio.wait_for(self._invoke(job, tap), self._limit)
            return _rollout(job.example, state, tap.turns(), time.perf_counter() - start)
        except TimeoutError:
            error = f"no answer within {self._limit:g} seconds"
        except VtagentError as raised:
            error = f"{type(raised).__name__}: {raised}"
        except Exception as raised:
            error = f"the graph raised {type(raised).__name__}: {' '.join(str(raised).split())[:300]}"
        return Rollout(job.example, seconds=time.perf_counter() - start, error=error)

    async def _invoke(self, job: Job, tap: Tap) -> Any:
        model = self.model.model_copy(update={"engine": tap})
        ref = await asyncio.to_thread(self.model.store.put, job.example.image)
        message = HumanMessage([View(ref).block(), {"type": "text", "text": job.example.question}])
        return await self._agent.ainvoke({"messages": [message]}, context=replace(self._context, model=model))


class WorkingStore(MemoryImageStore):
    """Images of the batch under way; a training run would otherwise keep every image it has ever seen."""


def _rollout(example: Example, state: dict[str, Any], turns: tuple[Turn, ...], seconds: float) -> Rollout:
    if not turns:
        raise ModelError("the graph ended without calling the model of its context")
    replies = [message for message in state["messages"] if isinstance(message, AIMessage)]
    return Rollout(
        example=example,
        answer=state["answer"],
        zooms=state["usage"]["zooms"],
        well_formed=not state["usage"]["mistakes"] and all(is_well_formed(reply_of(reply)) for reply in replies),
        stop=state["stop"],
        usage=state["usage"],
        views=tuple(state["views"]),
        messages=tuple(state["messages"]),
        turns=turns,
        seconds=seconds,
    )


class _DaemonThreads(ThreadPoolExecutor):
    """Threads as many as are busy: a tool that hangs takes no place from others and does not keep the process alive."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._free = threading.Semaphore(0)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """See `Executor.submit`."""
        future: Future[T] = Future()

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        self._calls.put(call)
        if not self._free.acquire(blocking=False):
            threading.Thread(target=self._work, name="vtagent-rollout-thread", daemon=True).start()
        return future

    def _work(self) -> None:
        while True:
            self._calls.get()()
            self._free.release()
