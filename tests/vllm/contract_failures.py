"""A real server that is killed during runs: retries outlast it, or one line reports it, and nothing is lost."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from tests.vllm.runs import question, records, run
from tests.vllm.server import VLLMServer
from vtagent.errors import ModelError
from vtagent.graphs.zoom import create_zoom_agent
from vtagent.models.chat import ChatVLM
from vtagent.models.engine import Generation, Request
from vtagent.models.vllm.engine import VLLMEngine
from vtagent.training.data import Example, rendered


class Counted(VLLMEngine):
    """An engine that kills its server when it has given out a number of replies."""

    server: VLLMServer
    kills_at: int
    restarts: bool
    given = 0

    def submit(self, request: Request) -> Future[Generation]:
        future = super().submit(request)
        future.add_done_callback(lambda _: self._count())
        return future

    def _count(self) -> None:
        self.given += 1
        if self.given == self.kills_at:
            self.server.kill()
            if self.restarts:
                threading.Thread(target=self.server.launch).start()


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return list(rendered(16, seed=5))


def killing(server: VLLMServer, local: ChatVLM, *, at: int, restarts: bool, retries: int) -> ChatVLM:
    engine = Counted(server.url, local.processor, retries=retries, backoff=1.0, timeout=600.0)
    engine.server, engine.kills_at, engine.restarts = server, at, restarts
    return ChatVLM(engine=engine, processor=local.processor, image_store=local.image_store, max_tokens=96)


def tokens(states: Sequence[dict[str, object]]) -> list[list[list[int]]]:
    return [[record["completion_ids"] for record in records(state)] for state in states]


def test_runs_outlast_a_server_that_is_killed_and_started_again(
    server: VLLMServer, local: ChatVLM, examples: list[Example]
) -> None:
    model = killing(server, local, at=8, restarts=True, retries=60)
    try:
        states = run(model, examples, store=local.image_store)
        assert tokens(states) == tokens(run(local, examples, store=local.image_store))
    finally:
        model.engine.close()
        server.ready()


def test_without_patience_the_error_is_one_line_and_the_run_is_taken_up_where_it_stood(
    server: VLLMServer, local: ChatVLM
) -> None:
    [example] = [example for example in rendered(1, seed=17) if "small" in example.source]
    whole = run(local, [example], store=local.image_store)
    assert len(records(whole[0])) == 2, "a run of two turns is needed"
    model = killing(server, local, at=1, restarts=False, retries=1)
    agent = create_zoom_agent(model, image_store=local.image_store, checkpointer=InMemorySaver())
    thread: Any = {"configurable": {"thread_id": "killed"}}
    try:
        with pytest.raises(ModelError) as failed:
            agent.invoke({"messages": [question(local.image_store, example)]}, thread)
        assert re.fullmatch(rf"the vLLM server at {server.url} .+, tried 2 times", str(failed.value))
    finally:
        server.launch()
        server.ready()
    before = model.engine.given
    state = agent.invoke(None, thread)
    model.engine.close()
    assert tokens([state]) == tokens(whole)
    assert model.engine.given == before + 1, "the first turn was not asked for again"
