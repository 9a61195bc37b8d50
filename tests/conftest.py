"""Tests fetch nothing: a model that is not on this machine is unknown at once. And what all of them may share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache

import hypothesis
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported

# A slow machine is no fault of what is tested.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Callable[[], str]]:
    """Where a PostgreSQL server of the tests' own answers; it is started when first asked for."""
    with ExitStack() as stack:

        @cache
        def uri() -> str:
            from tests.checkpointers import postgres_server

            return stack.enter_context(postgres_server())

        yield uri
