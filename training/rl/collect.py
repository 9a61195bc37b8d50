"""Makes rollouts: runs of the compiled graph, a batch of them concurrently, each with its own seed and time limit.

All runs share one engine, which batches their calls. A run that raises, hangs or cannot be trained on becomes a rollout
with an `error`; the other runs are not affected.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from langchain_core.messages import AIMessage

from vtagent.errors import ModelError, VtagentError
from vtagent.graphs.zoom import ZoomContext, create_zoom_agent
from vtagent.images import MemoryImageStore
from vtagent.models.chat import ChatVLM
from vtagent.protocol import is_well_formed, reply_of
from vtagent.training.data import Example
from vtagent.training.rl.daemon_threads import DaemonThreads
from vtagent.training.rl.rollout import Rollout
from vtagent.training.rl.seeded_engine import SeededEngine
from vtagent.training.rl.turns import turns_of
from vtagent.training.run_example import ExampleRun, one_line, run_example

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
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(DaemonThreads())
        self._thread = threading.Thread(target=self._serve, name="vtagent-rollouts", daemon=True)
        self._thread.start()

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

    def _engine(self, job: Job) -> SeededEngine:
        return SeededEngine(self.model.engine, job.seed, self._banned)

    async def _run(self, job: Job) -> Rollout:
        engine = self._engine(job)
        model = self.model.model_copy(update={"engine": engine})
        context = replace(self._context, model=model)
        run = await run_example(self._agent, job.example, context, model.image_store, limit=self._limit)
        error = run.error
        if error is None:
            try:  # in a thread, since images that the renderer no longer keeps are rendered again
                return await asyncio.to_thread(rollout_of, job.example, run, model, replies=engine.requests)
            except Exception as raised:
                error = raised
        return Rollout(job.example, seconds=run.seconds, error=_reason(error))


class WorkingStore(MemoryImageStore):
    """The images of the current batch. Without clearing, a training run would keep every image it has ever seen."""

    def clear(self) -> None:
        """Forget all images."""
        self._data.clear()
        self._refs.clear()


def rollout_of(example: Example, run: ExampleRun, model: ChatVLM, *, replies: int) -> Rollout:
    """Make the rollout of a run that ended.

    Args:
        example: What was asked.
        run: The run, with its final state.
        model: The model of the run.
        replies: How often the run called the model.

    Raises:
        ModelError: The run cannot be trained on.
    """
    state = run.state
    if not replies:
        raise ModelError("the graph ended without calling the model of its context")
    turns = turns_of(state["messages"], model)
    if len(turns) != replies:
        raise ModelError(
            f"the run left {len(turns)} of the model's {replies} replies, so its conversation does not begin with all "
            "that was said before; a node of the graph has rewritten it, and its tokens cannot be trained on"
        )
    said = [message for message in state["messages"] if isinstance(message, AIMessage)]
    return Rollout(
        example=example,
        answer=state["answer"],
        zooms=state["usage"]["zooms"],
        well_formed=not state["usage"]["mistakes"] and all(is_well_formed(reply_of(reply)) for reply in said),
        stop=state["stop"],
        usage=state["usage"],
        views=tuple(state["views"]),
        messages=tuple(state["messages"]),
        turns=turns,
        seconds=run.seconds,
    )


def _reason(error: Exception) -> str:
    """Why a run failed, in one line."""
    if isinstance(error, TimeoutError):
        return str(error)
    return one_line(error) if isinstance(error, VtagentError) else f"the graph raised {one_line(error)}"
