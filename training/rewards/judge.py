"""Asks a language model whether a prediction means the same as a gold answer: right, wrong, or no verdict.

A judge that is down, slow or gives no readable reply has no verdict, and nothing is assumed in its place.
`judge_prompt` holds what the judge is told and how its replies are read.

All questions are asked from one thread with one event loop, because a chat model's connections belong to the loop that
opened them and fail in any other.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import random
import re
import time
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from tenacity import AsyncRetrying, RetryCallState, retry_if_result, stop_after_attempt, wait_exponential

from vtagent.errors import ModelError, one_line
from vtagent.models.loop_thread import LoopThread
from vtagent.training.rewards.cache import VerdictCache
from vtagent.training.rewards.judge_prompt import INSTRUCTIONS, prompt, read_verdict

_PATIENCE = 8
"""Failed questions in a row after which the judge counts as down."""
_PAUSE = 30.0
"""Seconds for which a judge that is down is not asked."""
_MOST_BACKOFF = 30.0
"""Most seconds between two attempts, before jitter."""
_LONGEST = 1000
"""Characters. A longer prediction is wrong without being asked about, because no answer is an essay."""
_URLS = ("openai_api_base", "base_url", "azure_endpoint", "anthropic_api_url", "endpoint_url", "endpoint")

_log = logging.getLogger(__name__)


class _JudgeIsDown(Exception):
    """The judge is not asked at the moment, so another attempt is of no use."""


class Judge:
    """Asks a chat model for verdicts, several at a time.

    Args:
        model: A chat model. It is sent text only. Its temperature should be 0.
        name: Identifies this judge in the cache; by default the model's class, parameters and URL.
        cache: Where verdicts are stored; None keeps them in memory only.
        concurrency: Maximum number of questions in progress.
        attempts: How often one question is asked before it fails.
        backoff: Seconds before the second attempt. Doubled before each further one, up to 30 seconds. Each wait is
            multiplied by a random factor between 0.5 and 1.5.
        timeout: Seconds for one reply.
        at_end: Awaited when the judge is no longer used, to close the model's connections.

    Attributes:
        counts: The number of questions that were "asked", "cached", "shared" (an equal question was in progress),
            "retried" and "failed".
    """

    def __init__(
        self,
        model: BaseChatModel,
        *,
        name: str | None = None,
        cache: VerdictCache | None = None,
        concurrency: int = 16,
        attempts: int = 4,
        backoff: float = 1.0,
        timeout: float = 60.0,
        at_end: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.model = model
        self.name = name or identity(model)
        self.cache = cache
        self.concurrency, self.attempts = concurrency, attempts
        self.backoff, self.timeout = backoff, timeout
        self.counts: Counter[str] = Counter()
        self._known: dict[str, bool] = {}
        self._under_way: dict[str, asyncio.Task[bool | None]] = {}
        self._gate = asyncio.Semaphore(concurrency)
        self._failures_in_a_row = 0
        self._down_until = 0.0
        self._last_trouble = ""
        self._home = LoopThread("vtagent-judge", closed="the judge is closed", at_end=at_end)
        weakref.finalize(self, self._home.close, ModelError("the judge is gone"))

    async def grade(self, question: str, answers: Sequence[str], prediction: str | None) -> bool | None:
        """Ask whether the prediction means the same as one of the answers.

        Equal questions are asked once, even at the same time.

        Args:
            question: The question about the image.
            answers: The gold answers.
            prediction: What the policy answered; None or blank is wrong.

        Returns:
            Right or wrong. None: there is no verdict, and the prediction must not be scored.

        Raises:
            ModelError: The judge is closed.
        """
        if prediction is None or not prediction.strip() or len(prediction) > _LONGEST:
            return False
        return await asyncio.wrap_future(self._home.run(self._settle(question, answers, prediction)))

    async def check(self) -> None:
        """Ask two questions with obvious answers, as a check at start-up.

        Raises:
            ModelError: The judge gives no verdict or a wrong one.
        """
        await asyncio.wrap_future(self._home.run(self._check()))

    def key(self, question: str, answers: Sequence[str], prediction: str) -> str:
        """The cache key of a question: a SHA-256 hash of everything that the verdict depends on."""
        parts = [self.name, INSTRUCTIONS, prompt(question, answers, prediction)[1].content]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    async def _check(self) -> None:
        question = "How many chairs are in the picture?"
        for prediction, expected in (("There are three chairs.", True), ("four", False)):
            messages = prompt(question, ["3"], prediction)
            retrying = AsyncRetrying(stop=stop_after_attempt(self.attempts), wait=self._wait, reraise=True)
            try:  # a server that is still loading its model refuses connections
                reply: BaseMessage = await retrying(self._reply, messages)
            except Exception as error:  # chat models raise many kinds
                raise ModelError(f"the judge {self.name} does not answer: {one_line(error)}") from error
            if (verdict := read_verdict(reply.text)) is not expected:
                said = "gives no verdict" if verdict is None else "misjudges"
                raise ModelError(
                    f"the judge {self.name} {said}: asked whether {prediction!r} means 3, it says {reply.text!r:.200}"
                )

    async def _settle(self, question: str, answers: Sequence[str], prediction: str) -> bool | None:
        key = self.key(question, answers, prediction)
        known = self._known.get(key)
        if known is None and self.cache is not None:
            known = self.cache.get(key)
        if known is not None:
            self.counts["cached"] += 1
            return known
        if (task := self._under_way.get(key)) is not None:
            self.counts["shared"] += 1
        else:
            task = self._under_way[key] = asyncio.create_task(self._ask(key, question, answers, prediction))
            task.add_done_callback(lambda _: self._under_way.pop(key, None))
        return await asyncio.shield(task)

    async def _ask(self, key: str, question: str, answers: Sequence[str], prediction: str) -> bool | None:
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self.attempts),
            wait=self._wait,
            retry=retry_if_result(lambda verdict: verdict is None),
            before_sleep=self._count_retry,
            retry_error_callback=lambda _: None,  # after the last attempt there is no verdict
        )
        verdict: bool | None = None
        with suppress(_JudgeIsDown):
            verdict = await retrying(self._attempt, prompt(question, answers, prediction))
        if verdict is None:
            self._count_failure()
            return None
        self._failures_in_a_row = 0
        self._known[key] = verdict
        if self.cache is not None:
            about = {"question": question, "answers": list(answers), "prediction": prediction}
            self.cache.put(key, verdict, judge=self.name, **about)
        return verdict

    async def _reply(self, messages: list[BaseMessage]) -> BaseMessage:
        """Ask the model, within the time limit."""
        return await asyncio.wait_for(self.model.ainvoke(messages), self.timeout)

    async def _attempt(self, messages: list[BaseMessage]) -> bool | None:
        """Ask once. None: no verdict, another attempt may give one."""
        async with self._gate:
            if time.monotonic() < self._down_until:
                raise _JudgeIsDown
            self.counts["asked"] += 1
            try:
                reply = await self._reply(messages)
            except Exception as error:  # chat models raise many kinds
                self._last_trouble = one_line(error)
                return None
        if (verdict := read_verdict(reply.text)) is None:
            self._last_trouble = f"no verdict in {reply.text!r:.200}"
        return verdict

    def _wait(self, state: RetryCallState) -> float:
        """Seconds to wait before the next attempt."""
        exponential = wait_exponential(multiplier=self.backoff, max=_MOST_BACKOFF)
        return exponential(state) * random.uniform(0.5, 1.5)

    def _count_retry(self, _: RetryCallState) -> None:
        self.counts["retried"] += 1

    def _count_failure(self) -> None:
        self.counts["failed"] += 1
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= _PATIENCE and time.monotonic() >= self._down_until:
            self._down_until = time.monotonic() + _PAUSE
            _log.warning(
                "the judge %s failed %d times in a row (%s): not asked for %.0f s, its rows stay unscored",
                self.name,
                self._failures_in_a_row,
                self._last_trouble,
                _PAUSE,
            )


def identity(model: BaseChatModel) -> str:
    """Identify a model in one line: its class, its plain parameters, and a hash of all parameters and the server's URL.

    The line is logged and stored. Values that may hold a secret (headers, a URL with a password) enter the hash only.
    """
    given = model._identifying_params
    plain = {name: value for name, value in given.items() if isinstance(value, str | int | float | bool)}
    urls = [str(getattr(model, name, None)) for name in _URLS]
    whole = json.dumps([given, urls], sort_keys=True, default=_in_words)
    return json.dumps([model._llm_type, plain, hashlib.sha256(whole.encode()).hexdigest()[:16]], sort_keys=True)


def _in_words(value: object) -> str:
    """A parameter that JSON cannot hold, as text without memory addresses."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))
