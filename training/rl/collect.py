"""Makes rollouts: runs of the compiled graph, a batch of them concurrently, each with its own seed and time limit.

All runs share one engine, which batches their calls. A run that raises, hangs or cannot be trained on becomes a rollout
with an `error`; the other runs are not affected.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Any, TypeVar

from langchain_core.messages import AIMessage

from vtagent.errors import ModelError, VtagentError, described
from vtagent.graphs.zoom import ZoomContext, create_zoom_agent
from vtagent.images import MemoryImageStore
from vtagent.models.chat import ChatVLM
from vtagent.models.engine import Engine, Generation, Request
from vtagent.models.loop_thread import LoopThread
from vtagent.protocol import is_well_formed, reply_of
from vtagent.training.data import Example
from vtagent.training.rl.rollout import Rollout, turns_of
from vtagent.training.run_example import Ending, run_example

T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """One run to make."""

    example: Example
    seed: int
    """With the weights, it decides everything that the run samples."""


class Collector:
    """Runs a graph on batches of examples, in an event loop in a thread of its own.

    Args:
        model: The policy. Its temperature, top_p, top_k and max_tokens apply to every reply.
        context: The settings of every run; its `model` is replaced.
        banned: Tokens that no engine may sample: those that stand for images.
        limit: Seconds that a run may take.
        concurrency: Number of concurrent runs.
        build: Makes the graph. It must call the model of the run's context, as the zoom agent does.
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
        _ = model._serialized  # cached here once, or LangChain computes it again for the copy of every run
        closed = "the collector is closed; make a new one"
        self._home = LoopThread("vtagent-rollouts", closed=closed, executor=DaemonThreads())

    def collect(self, jobs: Sequence[Job]) -> list[Rollout]:
        """Make all runs and wait for them.

        Returns:
            One rollout per job, in their order, including the failed ones.
        """
        if isinstance(self.model.image_store, WorkingStore):
            self.model.image_store.clear()
        return self.wait(self._collect(jobs))

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine that runs in the collector's loop. An interrupt cancels it."""
        future = self._home.run(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """End the event loop. A tool that hangs keeps its thread until the process ends, and does not delay that."""
        self._home.close(ModelError("the collector was closed before the rollouts were made"))

    async def _collect(self, jobs: Sequence[Job]) -> list[Rollout]:
        gate = asyncio.Semaphore(self._concurrency)

        async def one(job: Job) -> Rollout:
            async with gate:
                return await self._run(job)

        return list(await asyncio.gather(*(one(job) for job in jobs)))

    def _engine(self, job: Job) -> SeededEngine:
        return SeededEngine(self.model.engine, job.seed, self._banned)

    async def _run(self, job: Job) -> Rollout:
        engine = self._engine(job)
        model = self.model.model_copy(update={"engine": engine})
        context = replace(self._context, model=model)
        run = await run_example(self._agent, job.example, context, model, limit=self._limit)
        left = run.left
        if isinstance(left, Ending):
            try:  # in a thread, since images that the renderer no longer keeps are rendered again
                return await asyncio.to_thread(
                    rollout_of, job.example, left, model, replies=engine.requests, seconds=run.seconds
                )
            except Exception as raised:
                left = raised
        return Rollout(job.example, seconds=run.seconds, error=_reason(left))


class WorkingStore(MemoryImageStore):
    """The images of the current batch. Without clearing, a training run would keep every image it has ever seen."""


def rollout_of(example: Example, ending: Ending, model: ChatVLM, *, replies: int, seconds: float) -> Rollout:
    """Make the rollout of a run that ended.

    Args:
        example: What was asked.
        ending: What the run left.
        model: The model of the run.
        replies: How often the run called the model.
        seconds: How long it took.

    Raises:
        ModelError: The run cannot be trained on.
    """
    if not replies:
        raise ModelError("the graph ended without calling the model of its context")
    turns = turns_of(ending.messages, model)
    if len(turns) != replies:
        raise ModelError(
            f"the run left {len(turns)} of the model's {replies} replies, so its conversation does not begin with all "
            "that was said before; a node of the graph has rewritten it, and its tokens cannot be trained on"
        )
    said = [message for message in ending.messages if isinstance(message, AIMessage)]
    usage = ending.usage
    return Rollout(
        example=example,
        answer=ending.answer,
        zooms=usage["zooms"],
        well_formed=not usage["mistakes"] and all(is_well_formed(reply_of(reply)) for reply in said),
        stop=ending.stop,
        usage=usage,
        views=ending.views,
        messages=ending.messages,
        turns=turns,
        seconds=seconds,
    )


def _reason(error: Exception) -> str:
    """Why a run failed, in one line."""
    if isinstance(error, TimeoutError):
        return str(error)
    return described(error) if isinstance(error, VtagentError) else f"the graph raised {described(error)}"


class DaemonThreads(ThreadPoolExecutor):
    """Starts a daemon thread whenever none is free, so that a call that hangs takes no place from others.

    The event loop accepts only a ThreadPoolExecutor as its default executor, hence the base class. Its pool is unused.
    """

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


class SeededEngine(Engine):
    """Hands the requests of one run to the engine that all runs share.

    Each reply has its own seed. With one seed for all of them, the second reply would draw the random numbers that
    decided the first one.

    Args:
        engine: The shared engine. Closing this one leaves it open.
        seed: The seed of the run.
        banned: Tokens that no reply may contain.
    """

    def __init__(self, engine: Engine, seed: int, banned: frozenset[int]) -> None:
        self.context = engine.context
        self.requests = 0
        """Requests submitted so far."""
        self._engine, self._seed, self._banned = engine, seed, banned

    def submit(self, request: Request) -> Future[Generation]:
        """See `Engine.submit`."""
        seed = random.Random(f"{self._seed}/{self.requests}").getrandbits(48)
        self.requests += 1
        sampling = replace(request.sampling, seed=seed, banned=request.sampling.banned | self._banned)
        return self._engine.submit(replace(request, sampling=sampling))

    def announce(self) -> AbstractContextManager[None]:
        """See `Engine.announce`."""
        return self._engine.announce()

    def close(self) -> None:
        """Do nothing: the engine belongs to all runs."""
