"""Accuracy with the decision forced either way: asked as training asks, and of what is known alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import scripted_vlm
from tests.grpo_runs import KNOWN_WARNINGS, logged, trainer
from tests.scripted_chat import ANSWER, picture
from vtagent.graphs.zoom import ZoomContext, create_zoom_agent
from vtagent.models.chat import ChatVLM
from vtagent.training.data import Example
from vtagent.training.measure.asking import QUESTIONS, ForcedProbe
from vtagent.training.rewards import build_grader

pytestmark = [pytest.mark.filterwarnings(warning) for warning in KNOWN_WARNINGS]

PICTURE = picture(256, 192)


def examples(count: int, *, name: str = "fine") -> list[Example]:
    return [Example(f"{name} {n}", PICTURE, f"{name} {n}?", ("48.10",), "test") for n in range(count)]


def probe(model: ChatVLM, asked: Sequence[Example], **options: Any) -> ForcedProbe:
    options = {"context": ZoomContext(), "limit": 60.0, **options}
    return ForcedProbe(model, options.pop("grader", None) or build_grader("exact"), asked, **options)


def test_it_asks_as_training_does() -> None:
    model = scripted_vlm(lambda request, prompt: ANSWER)
    built: list[ChatVLM] = []

    def build(own: ChatVLM) -> Any:
        built.append(own)
        return create_zoom_agent(own, system_prompt="Short, please.")

    found = asyncio.run(probe(model, examples(2), context=ZoomContext(scale=0.75), build=build).measure())
    assert found["forced/direct/accuracy"] == 1.0
    assert built == [model]
    engine: Any = model.engine
    assert all("Short, please." in prompt for prompt in engine.prompts)
    assert {request.images[0].pixels.size for request in engine.requests} == {(192, 128)}  # not (128, 96)


def test_runs_that_fail_or_take_too_long_are_left_out() -> None:
    class Troubled:
        def __init__(self, model: ChatVLM) -> None:
            self._agent = create_zoom_agent(model)

        async def ainvoke(self, given: Any, **kwargs: Any) -> Any:
            question = str(given["messages"][0].content)
            if "hangs" in question:
                await asyncio.sleep(3600)
            if "breaks" in question:
                raise RuntimeError("out of luck")
            return await self._agent.ainvoke(given, **kwargs)

    asked = [*examples(1), *examples(1, name="hangs"), *examples(1, name="breaks")]
    model = scripted_vlm(lambda request, prompt: ANSWER)
    found = asyncio.run(probe(model, asked, build=Troubled, limit=2.0).measure())
    assert found["forced/direct/accuracy"] == 1.0


def test_a_grader_that_raises_says_nothing_and_stops_nobody() -> None:
    class Down:
        async def grade(self, question: str, answers: Sequence[str], prediction: str | None) -> bool | None:
            raise ConnectionError("no judge there")

    model = scripted_vlm(lambda request, prompt: ANSWER)
    assert asyncio.run(probe(model, examples(2), grader=Down()).measure()) == {}


def test_sources_are_told_apart_and_what_a_zoom_changed_is_counted() -> None:
    def say(request: Any, prompt: str) -> str:
        if prompt.rstrip().endswith("<tool_call>"):  # opened in the policy's place
            return '{"name": "zoom_image", "arguments": {}}\n</tool_call>'
        seen = len(request.images) > 1
        name = next(name for name in ("easy", "fine", "odd") if f"{name} 0?" in prompt or f"{name} 1?" in prompt)
        right = {"easy": True, "fine": seen, "odd": not seen}[name]
        answer = "48.10" if right else "8"
        return f"<think>.</think><answer>{answer}</answer>"

    asked = [replace(example, source=name) for name in ("easy", "fine", "odd") for example in examples(2, name=name)]
    found = asyncio.run(probe(scripted_vlm(say), asked).measure())
    assert found == {
        "forced/zoom/accuracy": pytest.approx(2 / 3),
        "forced/direct/accuracy": pytest.approx(2 / 3),
        "tool_effect/helped": pytest.approx(1 / 3),
        "tool_effect/hurt": pytest.approx(1 / 3),
        "forced/zoom/accuracy/easy": 1.0,
        "forced/direct/accuracy/easy": 1.0,
        "forced/zoom/accuracy/fine": 1.0,
        "forced/direct/accuracy/fine": 0.0,
        "forced/zoom/accuracy/odd": 0.0,
        "forced/direct/accuracy/odd": 1.0,
        "tool_effect/helped/easy": 0.0,
        "tool_effect/helped/fine": 1.0,
        "tool_effect/helped/odd": 0.0,
        "tool_effect/hurt/easy": 0.0,
        "tool_effect/hurt/fine": 0.0,
        "tool_effect/hurt/odd": 1.0,
    }


def test_questions_are_taken_from_all_over_the_data() -> None:
    asked = probe(scripted_vlm([]), examples(10 * QUESTIONS))._examples
    assert [example.id for example in asked] == [f"fine {10 * n}" for n in range(QUESTIONS)]


def test_a_training_run_logs_it_every_so_many_steps(tmp_path: Path) -> None:
    run = trainer(tmp_path, probe_steps=2, max_steps=3, num_generations=2, per_device_train_batch_size=4)
    run.train()
    steps = [entry["step"] for entry in run.state.log_history if "forced/direct/accuracy" in entry]
    assert steps == [1, 3]
    assert all(0 <= value <= 1 for value in logged(run, "forced/zoom/accuracy") + logged(run, "forced/direct/accuracy"))
