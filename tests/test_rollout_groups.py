"""Groups that straddle processes: all decide alike which are replaced, and come to what one process comes to."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import scripted_vlm
from tests.grpo_runs import KNOWN_WARNINGS, settings
from tests.scripted_chat import picture
from vtagent.graphs.zoom import ZoomContext
from vtagent.models.codec import Codec, never_sampled
from vtagent.models.engine import Request
from vtagent.training.data import Example
from vtagent.training.rewards import build_grader
from vtagent.training.rl.collect import Collector, WorkingStore
from vtagent.training.rl.groups import GenerationBatch, GroupRoller
from vtagent.training.rl.samples import SampleMaker

pytestmark = [pytest.mark.filterwarnings(warning) for warning in KNOWN_WARNINGS]

PICTURE = picture(256, 192)
EXAMPLES = [Example(name, PICTURE, f"{name}?", ("7",), "test") for name in ("never", "some", "more", "most")]
ROWS = [0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0]
"""Three groups of four; nobody is ever right about the first and the last."""


def say(request: Request, prompt: str) -> str:
    """Right by the run's seed alone, and never about "never"."""
    right = "never?" not in prompt and (request.sampling.seed or 0) % 2
    return f"<think>.</think><answer>{7 if right else 8}</answer>"


def rolled(
    folder: Path,
    rows: list[int],
    rank: int,
    gather: Callable[[list[Any]], list[Any]],
    examples: list[Example] = EXAMPLES,
    say: Callable[[Request, str], str] = say,
    **given: Any,
) -> GenerationBatch:
    """What one process makes of its rows."""
    model = scripted_vlm(say, image_store=WorkingStore(), temperature=1.0)
    processor = model.processor
    codec = Codec(processor.tokenizer, processor.chat_template)
    maker = SampleMaker(
        processor.vision,
        processor.image_token_id,
        never_sampled(processor.tokenizer),
        processor.tokenizer.eos_token_id,
    )
    given = {"refill_rounds": 12, "penalty": "off", **given}
    args = settings(folder, num_generations=4, per_device_train_batch_size=12, **given)
    collector = Collector(model, context=ZoomContext())
    try:
        roller = GroupRoller(collector, build_grader("exact"), maker, codec, args, examples, gather=gather, rank=rank)
        return roller.roll(rows, 0)
    finally:
        collector.close()


def summary(generations: list[GenerationBatch]) -> list[Any]:
    """Every row's example, answer and reward, in the order of ranks."""
    members = [member for generation in generations for member in generation.members]
    return [(own.group, own.rollout.example.id, own.rollout.answer, own.reward) for own in members]


def test_two_processes_replace_the_same_groups_as_one(tmp_path: Path) -> None:
    alone = rolled(tmp_path, ROWS, 0, lambda rows: rows)
    barrier, given = threading.Barrier(2, timeout=120), {}

    def gathering(rank: int) -> Callable[[list[Any]], list[Any]]:
        def gather(rows: list[Any]) -> list[Any]:
            given[rank] = rows
            barrier.wait()
            joined = given[0] + given[1]
            barrier.wait()
            return joined

        return gather

    with ThreadPoolExecutor(2) as threads:
        parts = [ROWS[:6], ROWS[6:]]  # the second group is on both
        jobs = [threads.submit(rolled, tmp_path, parts[rank], rank, gathering(rank)) for rank in (0, 1)]
        both = [job.result() for job in jobs]
    assert summary(both) == summary([alone])
    assert alone.refilled >= 2
    assert [(one.same, one.refilled) for one in both] == [(alone.same, alone.refilled)] * 2
    assert alone.same == 0
    assert {member.rollout.example.id for member in alone.members} <= {"some", "more", "most"}
    assert [row.example for row in both[0].groups[2]] == ["never"] * 4  # figures are of what was drawn first
    replacing = [[[row.example for row in group] for group in one.replacing] for one in (alone, *both)]
    assert all(len(groups) >= alone.refilled for groups in replacing)
    assert replacing == [replacing[0]] * 3


def test_nearly_all_groups_teach_something_though_nine_in_ten_prompts_teach_nothing(tmp_path: Path) -> None:
    examples = [Example(f"{'Zebra' if n % 10 == 0 else 'Heron'} {n}", PICTURE, "", ("7",), "test") for n in range(3000)]
    examples = [replace(example, question=f"{example.id}?") for example in examples]

    def answer(request: Request, prompt: str) -> str:
        right = "Zebra" in prompt and (request.sampling.seed or 0) % 2
        return f"<think>.</think><answer>{7 if right else 8}</answer>"

    def idle(rounds: int) -> float:
        places = [n for n in range(40) for _ in range(4)]  # a step: forty prompts of four rollouts
        made = rolled(tmp_path, places, 0, list, examples=examples, say=answer, refill_rounds=rounds)
        assert made.same * 4 == len(places) - made.active
        tried = [row.example for group in (*made.groups, *made.replacing) for row in group[:1]]
        assert len(set(tried)) == len(tried)  # no prompt twice
        return made.same / 40

    assert idle(0) >= 0.85
    assert 0.7 <= idle(1) <= 0.9
    assert idle(5) <= 0.05


def test_what_a_rollout_was_shown_decides_what_it_pays_by_tokens(tmp_path: Path) -> None:
    made = rolled(tmp_path, ROWS, 0, lambda rows: rows, penalty="tokens", refill_rounds=0)
    paid = {(member.scored.verdict.right, member.reward.penalty) for member in made.members if member.reward}
    assert paid == {(True, 0.1 * 0.25), (False, 0.0)}  # all answer after the low view, a quarter of the tokens
