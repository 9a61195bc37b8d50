"""Whatever goes wrong in single rollouts, the step completes: they are left out, and counted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.grpo_runs import KNOWN_WARNINGS, generation, logged, page, parameters, trainer
from vtagent.errors import ImageError
from vtagent.graphs.zoom import create_zoom_agent
from vtagent.models.chat import ChatVLM
from vtagent.training.data import RenderedPages
from vtagent.training.rewards import build_grader

pytestmark = [pytest.mark.filterwarnings(warning) for warning in KNOWN_WARNINGS]


class Troubled:
    """The graph, of whose runs every other one goes wrong: it raises, or it hangs."""

    def __init__(self, model: ChatVLM, *, hangs: bool = False) -> None:
        self._agent = create_zoom_agent(model)
        self._hangs = hangs
        self._runs = 0

    async def ainvoke(self, given: Any, **kwargs: Any) -> Any:
        self._runs += 1
        if self._runs % 2 and self._hangs:
            await asyncio.sleep(3600)
        elif self._runs % 2:
            raise RuntimeError("a node raised")
        return await self._agent.ainvoke(given, **kwargs)


class Down:
    """A grader that is down for every other question."""

    def __init__(self) -> None:
        self._asked = 0
        self._exact = build_grader("exact")

    async def grade(self, question: str, answers: Sequence[str], prediction: str | None) -> bool | None:
        self._asked += 1
        if self._asked % 4 == 1:
            raise ConnectionError("no judge there")
        return None if self._asked % 4 == 3 else await self._exact.grade(question, answers, prediction)


class Fickle:
    """A grader that finds every other answer right."""

    def __init__(self) -> None:
        self._asked = 0

    async def grade(self, question: str, answers: Sequence[str], prediction: str | None) -> bool | None:
        self._asked += 1
        return self._asked % 2 == 0


@pytest.mark.parametrize("hangs", [False, True])
def test_runs_that_raise_or_hang_are_left_out_of_a_step_that_trains_on_the_others(tmp_path: Path, hangs: bool) -> None:
    run = trainer(
        tmp_path,
        build=lambda model: Troubled(model, hangs=hangs),
        run_seconds=20.0 if hangs else 300.0,
        grader=Fickle(),
        num_generations=8,
    )
    before = parameters(run)
    run.train()
    assert logged(run, "rollouts/failed") == [4]
    assert all(torch.isfinite(value).all() for value in parameters(run).values())
    assert any(not torch.equal(value, before[name]) for name, value in parameters(run).items())


def test_a_failed_row_has_no_reward_and_no_advantage(tmp_path: Path) -> None:
    run = trainer(tmp_path, build=Troubled)
    batch = generation(run)
    assert run._generation is not None
    failed = [member.rollout.error is not None for member in run._generation.members]
    assert sum(failed) == 4
    assert [member.reward is None for member in run._generation.members] == failed
    assert not batch["advantages"][failed].any()
    assert not batch["tool_mask"][failed][:, 0].any()


def test_a_step_in_which_every_run_fails_completes_and_changes_nothing(tmp_path: Path) -> None:
    class Broken:
        async def ainvoke(self, given: Any, **kwargs: Any) -> Any:
            raise RuntimeError("always")

    run = trainer(tmp_path, build=lambda model: Broken())
    before = parameters(run)
    run.train()
    assert logged(run, "rollouts/failed") == [8]
    assert all(torch.equal(value, before[name]) for name, value in parameters(run).items())


def test_a_failed_run_that_is_a_batch_by_itself_is_scored_like_any_other(tmp_path: Path) -> None:
    run = trainer(
        tmp_path,
        build=Troubled,
        grader=Fickle(),
        num_generations=4,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=4,
        beta=0.1,
    )
    assert run.ref_model is not None
    run.train()
    assert logged(run, "rollouts/failed") == [2]
    assert abs(logged(run, "kl")[0]) < 1e-6  # the reference is the policy that the run began with
    assert all(torch.isfinite(value).all() for value in parameters(run).values())


def test_a_picture_that_has_gone_is_a_run_that_failed_and_others_are_read_once(tmp_path: Path) -> None:
    class Pages(RenderedPages):
        def __getitem__(self, index: Any) -> Any:
            read.append(index)
            if index == 0:
                raise ImageError("'page.png': No such file or directory")
            return super().__getitem__(index)

    read: list[int] = []
    run = trainer(tmp_path, examples=Pages(16, seed=3))
    generation(run)
    assert sorted(read) == [0, 1]
    assert run._generation is not None
    assert [member.reward is None for member in run._generation.members] == [True] * 4 + [False] * 4
    assert run._metrics["train"]["rollouts/failed"] == [4]
    assert "'page.png'" in (tmp_path / "rollouts" / "step-000001.jsonl").read_text()


@pytest.mark.parametrize("drop_same", [False, True])
def test_a_group_that_all_earned_the_same_may_be_left_out_of_the_loss(tmp_path: Path, drop_same: bool) -> None:
    class FirstOnly:
        """Finds answers to the first page's question right by turns, and all others wrong."""

        async def grade(self, question: str, answers: Sequence[str], prediction: str | None) -> bool | None:
            return answers == page(0).answers and await fickle.grade(question, answers, prediction)

    fickle = Fickle()
    run = trainer(tmp_path, grader=FirstOnly(), format_reward=0.0, penalty="off", drop_same=drop_same)
    batch = generation(run)
    learned = (batch["completion_mask"] * batch["tool_mask"]).any(1).tolist()
    assert learned == [True] * 4 + [not drop_same] * 4
    assert not batch["advantages"][4:].any()


def test_a_judge_that_is_down_makes_rows_unscorable_and_never_wrong(tmp_path: Path) -> None:
    run = trainer(tmp_path, grader=Down())
    batch = generation(run)
    assert run._generation is not None
    for member, advantage in zip(run._generation.members, batch["advantages"].tolist(), strict=True):
        assert (member.reward is None) == (member.scored.failure == "judge")
        assert member.reward is not None or (advantage == 0 and not any(member.sample.tool_mask))
    assert run._metrics["train"]["rollouts/judge_failed"] == [4]


def test_a_judge_that_goes_down_while_groups_are_replaced_is_counted(tmp_path: Path) -> None:
    class GoesDown:
        """Finds everything wrong, so that all groups are replaced, and then says nothing more."""

        def __init__(self) -> None:
            self._asked = 0

        async def grade(self, question: str, answers: Sequence[str], prediction: str | None) -> bool | None:
            self._asked += 1
            return False if self._asked <= 8 else None

    run = trainer(tmp_path, grader=GoesDown(), format_reward=0.0, penalty="off", refill_rounds=1, barren_patience=0)
    generation(run)
    assert run._generation is not None
    assert run._generation.refilled == 0  # what cannot be graded takes no place
    assert [member.reward.total for member in run._generation.members if member.reward] == [0.0] * 8
    assert run._metrics["train"]["rollouts/judge_failed"] == [8]


def test_an_over_long_reply_keeps_its_attention_and_teaches_nothing(tmp_path: Path) -> None:
    run = trainer(tmp_path, max_completion_length=4, mask_truncated_completions=True)
    batch = generation(run)
    assert run._metrics["train"]["rollouts/truncated"] == [8]
    assert run._generation is not None
    lengths = [len(member.sample.completion_ids) for member in run._generation.members]
    assert batch["completion_mask"].sum(1).tolist() == lengths  # masked here, images would shift from row to row
    assert not (batch["completion_mask"] * batch["tool_mask"]).any()
    assert not batch["advantages"].any()


def test_over_long_replies_may_be_scored_as_they_stand(tmp_path: Path) -> None:
    run = trainer(tmp_path, max_completion_length=4, mask_truncated_completions=False)
    generation(run)
    assert run._generation is not None
    assert [member.reward.total if member.reward else None for member in run._generation.members] == [0.0] * 8


def test_groups_that_teach_nothing_are_replaced(tmp_path: Path) -> None:
    right = page()
    unanswerable = type(right)("never", right.image, right.question, ("~",), "never")

    class EverySecond:
        """Finds every second answer about the right page right, and none about the other."""

        def __init__(self) -> None:
            self._asked = 0

        async def grade(self, question: str, answers: Sequence[str], prediction: str | None) -> bool | None:
            self._asked += 1
            return answers != ("~",) and bool(self._asked % 2)

    examples = [unanswerable, right, right, right]
    run = trainer(tmp_path, examples=examples, grader=EverySecond(), refill_rounds=8, penalty="off")
    generation(run, prompts=1)
    assert run._generation is not None
    assert run._generation.refilled >= 1
    assert {member.rollout.example.id for member in run._generation.members} == {right.id}
    assert run._metrics["train"]["accuracy/all"] == [0.0]  # figures are of what was drawn, not of what was kept


@pytest.mark.parametrize("rescale", [False, True])
def test_idle_rows_do_not_shrink_the_step_where_that_is_asked_for(tmp_path: Path, rescale: bool) -> None:
    class OnePageTeaches:
        """Finds every second answer about the first page right, and all about the second."""

        def __init__(self) -> None:
            self._asked = 0

        async def grade(self, question: str, answers: Sequence[str], prediction: str | None) -> bool | None:
            if answers != page().answers:
                return True
            self._asked += 1
            return bool(self._asked % 2)

    run = trainer(tmp_path, grader=OnePageTeaches(), penalty="off", format_reward=0.0, rescale_idle=rescale, beta=0.0)
    advantages = generation(run)["advantages"]
    assert not advantages[4:].any()
    plain = (0.5 / (1 / 3) ** 0.5) * (2.0 if rescale else 1.0)  # half of four are right; half of the rows are idle
    assert advantages[:4].abs().tolist() == [pytest.approx(plain, rel=1e-3)] * 4
    assert run._metrics["train"]["groups/idle_rows"] == [0.5]
