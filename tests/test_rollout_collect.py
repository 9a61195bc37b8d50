"""Runs of the graph become rollouts; a run that goes wrong is a rollout of its own kind and nobody else's trouble."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain_core.tools import tool

from tests.fakes import Script, scripted_vlm
from tests.scripted_chat import ANSWER, ZOOM, picture
from vtagent.graphs.zoom import ZoomContext, create_zoom_agent
from vtagent.models.chat import ChatVLM
from vtagent.models.engine import Request
from vtagent.training.data import Example
from vtagent.training.rl.collect import Collector, Job, WorkingStore

PICTURE = picture(256, 192)
Make = Callable[..., Collector]


def job(question: str = "What is the total?", seed: int = 0, image: bytes = PICTURE) -> Job:
    """A run to make."""
    return Job(Example(question, image, question, ("48.10",), "test"), seed)


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Collector] = []

    def collector(script: Script, **options: Any) -> Collector:
        store = WorkingStore()
        limit = options.pop("max_tokens", 8192)
        model = scripted_vlm(script, image_store=store, temperature=1.0, max_tokens=limit)
        made.append(Collector(model, context=options.pop("context", ZoomContext()), **options))
        return made[-1]

    yield collector
    for one in made:
        one.close()


def test_a_run_is_recorded_turn_by_turn(make: Make) -> None:
    collector = make([ZOOM, ANSWER])
    (rollout,) = collector.collect([job()])
    engine: Any = collector.model.engine
    assert (rollout.answer, rollout.zooms, rollout.well_formed, rollout.error) == ("48.10", 1, True, None)
    assert [view["kind"] for view in rollout.views] == ["low", "zoom"]
    first, second = rollout.turns
    assert first.prompt_ids == engine.requests[0].token_ids
    assert engine.requests[1].token_ids == first.prompt_ids + first.completion_ids + second.prompt_ids
    assert [image.pixels.size for image in second.images] == [(128, 96), (256, 192)]
    assert second.images[0].key == first.images[0].key == rollout.views[0]["url"]


def test_each_reply_of_each_run_has_a_seed_of_its_own(make: Make) -> None:
    def script(request: Request, prompt: str) -> str:
        return ANSWER if "tool_response" in prompt else ZOOM

    collector = make(script)
    collector.collect([job(seed=1), job(seed=2)])
    engine: Any = collector.model.engine
    seeds = {request.sampling.seed for request in engine.requests}
    assert len(seeds) == 4
    collector.collect([job(seed=2)])
    assert {request.sampling.seed for request in engine.requests[4:]} < seeds


def test_image_tokens_are_banned_in_every_request_and_prompts_are_collapsed(make: Make) -> None:
    collector = make([ZOOM, ANSWER], banned=frozenset({3, 5}))
    collector.collect([job()])
    engine: Any = collector.model.engine
    image_token = collector.model.processor.image_token_id
    for request in engine.requests:
        assert request.sampling.banned >= {3, 5}
        assert request.token_ids.count(image_token) == len(request.images)


def test_a_reply_that_was_cut_off_is_known_as_such(make: Make) -> None:
    collector = make(lambda request, prompt: "<think>" + "and so on " * 20, max_tokens=50)
    (rollout,) = collector.collect([job()])
    assert rollout.truncated
    assert not rollout.well_formed


@pytest.mark.parametrize(
    "call",
    ['{"name": "foo", "arguments": {}}', '{"name": "zoom_image", "arguments": {"region": [900, 0, 100, 5000]}}'],
)
def test_a_call_of_no_tool_or_that_the_tool_refuses_is_not_well_formed(make: Make, call: str) -> None:
    collector = make([f"<think>Small.</think><tool_call>{call}</tool_call>", ANSWER])
    (rollout,) = collector.collect([job()])
    assert (rollout.answer, rollout.zooms, rollout.usage["mistakes"]) == ("48.10", 0, 1)
    assert not rollout.well_formed


def test_a_run_that_fails_is_alone(make: Make) -> None:
    def script(request: Request, prompt: str) -> str:
        if "broken" in prompt:
            raise RuntimeError("out of luck")
        return ANSWER

    failed, fine, unreadable = make(script).collect([job("broken?"), job(), job(image=b"not an image")])
    assert failed.error is not None
    assert "out of luck" in failed.error
    assert (failed.turns, failed.answer) == ((), None)
    assert (fine.error, fine.answer) == (None, "48.10")
    assert unreadable.error is not None
    assert "UnreadableImage" in unreadable.error


def test_a_tool_that_hangs_costs_its_run_alone(make: Make) -> None:
    @tool
    def wait() -> str:
        """Never returns."""
        time.sleep(3600)
        return "never"

    call = '<think>Hm.</think><tool_call>{"name": "wait", "arguments": {}}</tool_call>'

    def script(request: Request, prompt: str) -> str:
        return call if "hang" in prompt else ANSWER

    def build(model: ChatVLM) -> Any:
        return create_zoom_agent(model, tools=[wait])

    collector = make(script, limit=4.0, build=build)
    rollouts = collector.collect([job("Does it hang?", seed) for seed in range(40)])
    assert {rollout.error for rollout in rollouts} == {"no answer within 4 seconds"}
    assert collector.collect([job()])[0].error is None  # forty threads hang; there is one for this


def test_a_graph_that_rewrites_the_conversation_cannot_be_trained_on(make: Make) -> None:
    def build(model: ChatVLM) -> Any:
        inner = create_zoom_agent(model)

        class Twice:
            async def ainvoke(self, given: Any, **kwargs: Any) -> Any:
                await inner.ainvoke(given, **kwargs)
                return await inner.ainvoke({"messages": [*given["messages"], *given["messages"]]}, **kwargs)

        return Twice()

    (rollout,) = make([ANSWER, ANSWER], build=build).collect([job()])
    assert rollout.error is not None
    assert "does not begin with all that was said before" in rollout.error


def test_a_graph_that_never_asks_the_model_cannot_be_trained_on(make: Make) -> None:
    class Silent:
        async def ainvoke(self, given: Any, **kwargs: Any) -> Any:
            await asyncio.sleep(0)
            return given

    (rollout,) = make([], build=lambda model: Silent()).collect([job()])
    assert rollout.error is not None
    assert "without calling the model" in rollout.error


def test_images_are_kept_no_longer_than_a_batch(make: Make) -> None:
    collector = make(lambda request, prompt: ANSWER)
    collector.collect([job()])
    collector.collect([job(image=picture(128, 128))])
    assert len(collector.model.image_store._data) == 1
