"""The engine of one rollout: it gives each reply a seed of its own and bans the tokens that stand for images."""

from __future__ import annotations

import random
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import replace

from vtagent.models.engine import Engine, Generation, Request


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
