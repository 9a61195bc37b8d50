"""A run that has nothing to learn from ends, keeps what it has learned, and goes on when the trouble is over."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from tests.grpo_runs import KNOWN_WARNINGS, parameters, trainer
from vtagent.errors import SettingsError
from vtagent.training.durable import checkpoints
from vtagent.training.rewards import Verdict, build_grader
from vtagent.training.rewards.grading import Cascade
from vtagent.training.rewards.judge import Judge
from vtagent.training.rl.barren import Barrenness, BarrenRun
from vtagent.training.rl.metrics import Failure, Scored

pytestmark = [pytest.mark.filterwarnings(warning) for warning in KNOWN_WARNINGS]

Trouble = Literal["dies", "babbles", "hangs"]
STEPS = 6


class JudgeModel(BaseChatModel):
    """Finds an answer right by its letters; after so many questions, it is in trouble."""

    trouble: Trouble = "dies"
    healthy: int = 10**9
    asked: int = 0

    @property
    def _llm_type(self) -> str:
        return "judge-of-tests"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {}

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        raise AssertionError("the judge is asked asynchronously")

    async def _agenerate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        self.asked += 1
        said = "RIGHT" if sum(map(ord, str(messages[-1].content))) % 2 else "WRONG"
        if self.asked > self.healthy:
            match self.trouble:
                case "dies":
                    raise ConnectionError("connection refused")
                case "hangs":
                    await asyncio.sleep(3600)
                case "babbles":
                    said = "It depends on what you mean."
        return ChatResult(generations=[ChatGeneration(message=AIMessage(said))])


class JudgedOnly:
    """Asks the judge about every answer; about a missing one, too."""

    def __init__(self, model: JudgeModel) -> None:
        self.judge = Judge(model, attempts=2, backoff=0.01, timeout=0.5)

    async def grade(self, question: str, answers: Sequence[str], prediction: str | None) -> bool | None:
        return await self.judge.grade(question, answers, prediction or "nothing at all")


def run_of(folder: Path, model: JudgeModel) -> Any:
    return trainer(folder, grader=JudgedOnly(model), max_steps=STEPS, save_strategy="no")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], int]:
    """The parameters after a run whose judge is well, and how many questions it was asked at the first step."""
    model = JudgeModel()
    run = run_of(tmp_path_factory.mktemp("undisturbed"), model)
    asked: list[int] = []
    report = run._report

    def counted(*arguments: Any) -> None:
        asked.append(model.asked)
        report(*arguments)

    run._report = counted
    run.train()
    run.collector.close()
    return parameters(run), asked[0]


@pytest.mark.parametrize("trouble", ["dies", "babbles", "hangs"])
def test_a_judge_in_trouble_ends_the_run_which_goes_on_to_the_same_parameters(
    trouble: Trouble, tmp_path: Path, undisturbed: tuple[dict[str, torch.Tensor], int]
) -> None:
    expected, first = undisturbed
    run = run_of(tmp_path, JudgeModel(trouble=trouble, healthy=first))
    with pytest.raises(BarrenRun, match=r"step 2: 8 of 8 rollouts teach nothing, because the judge gave no verdict"):
        run.train()
    run.collector.close()
    [(step, checkpoint)] = checkpoints(tmp_path)
    assert step == 1
    again = run_of(tmp_path, JudgeModel())
    again.train(resume_from_checkpoint=str(checkpoint))
    again.collector.close()
    assert again.state.global_step == STEPS
    found = parameters(again)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


class SaysNo:
    """A grader that finds everything wrong."""

    async def grade(self, question: str, answers: Sequence[str], prediction: str | None) -> bool | None:
        return False


def test_rollouts_that_all_earn_the_same_end_the_run_after_its_patience(tmp_path: Path) -> None:
    run = trainer(tmp_path, grader=SaysNo(), max_steps=STEPS, format_reward=0.0, penalty="off", barren_patience=3)
    with pytest.raises(BarrenRun, match=r"3 generations in a row taught nothing; step 3: 8 of 8 .* earned the same"):
        run.train()
    run.collector.close()
    assert [step for step, _ in checkpoints(tmp_path)] == [2]


def test_replies_that_are_cut_off_end_the_run_and_say_which_setting_helps(tmp_path: Path) -> None:
    run = trainer(tmp_path, max_steps=STEPS, max_completion_length=4, barren_patience=1)
    with pytest.raises(BarrenRun, match=r"a reply was cut off: raise max_completion_length"):
        run.train()
    run.collector.close()
    assert checkpoints(tmp_path) == []


def scored(right: bool | None, failure: Failure | None) -> Scored:
    return Scored("one", "any", Verdict(right, True, False), failure, None, 1, 1, 1, 0, 0.0)


@given(st.lists(st.booleans(), max_size=30), st.integers(0, 5))
def test_only_as_many_barren_generations_in_a_row_as_are_allowed_pass(barren: list[bool], patience: int) -> None:
    watch = Barrenness(0.95, patience)
    row, worst = 0, 0
    ended = False
    for step, each in enumerate(barren, 1):
        row = row + 1 if each else 0
        worst = max(worst, row)
        try:
            watch.read([[scored(True, None), scored(each, None)]], same=int(each), step=step)
        except BarrenRun:
            ended = True
            break
    assert ended == bool(patience and worst >= patience)


def test_a_judge_that_fails_now_and_then_ends_nothing() -> None:
    watch = Barrenness(0.95, 1)
    groups = [[scored(None, "judge")] * 9 + [scored(True, None), scored(False, None)]]
    watch.read(groups, same=0, step=1)
    with pytest.raises(BarrenRun, match="step 2: 2 of 2 rollouts"):
        watch.read([[scored(None, "judge")] * 2], same=1, step=2)


@pytest.mark.parametrize("prediction", [".", "…", "?!", "- -", "«»", "%"])
def test_punctuation_alone_is_wrong_and_no_judge_is_asked(prediction: str) -> None:
    model = JudgeModel()
    grader = Cascade(build_grader("exact").rules, Judge(model))
    assert asyncio.run(grader.grade("How much?", ["48.10"], prediction)) is False
    assert model.asked == 0


@pytest.mark.parametrize("wrong", [{"barren_share": 0.0}, {"barren_share": 1.5}, {"barren_patience": -1}], ids=str)
def test_patience_that_cannot_be_is_refused_at_the_start(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"try 0\.95 and 10"):
        trainer(tmp_path, **wrong)
