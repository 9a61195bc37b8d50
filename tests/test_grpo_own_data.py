"""Training on questions of one's own: what is held out, measured and kept, and a run that is made longer."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from tests.grpo_runs import KNOWN_WARNINGS, logged, trainer
from tests.test_grpo_command import RECIPE, fails
from vtagent.errors import DataError
from vtagent.training import grpo
from vtagent.training.data import Example, RenderedPages, held_out
from vtagent.training.rl.best import BestPolicy

pytestmark = [pytest.mark.filterwarnings(warning) for warning in KNOWN_WARNINGS]

QUICK = ["--num_generations", "2", "--per_device_train_batch_size", "4", "--report_to", "none", "--save_steps", "1"]
QUICK += ["--activation_checkpointing", "false", "--learning_rate", "1e-5"]


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """Twelve questions of one's own about six pages, in a file with the images beside it."""
    rows = []
    for number in range(6):
        example = RenderedPages(6, seed=5)[number]
        (tmp_path / f"page-{number}.png").write_bytes(example.image)
        row = {"image": f"page-{number}.png", "question": example.question, "answers": list(example.answers)}
        rows += [row, {**row, "question": example.question + " "}]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def train(folder: Path, *more: str) -> None:
    grpo.main(
        ["--config", str(RECIPE), "--data", str(folder / "mine.jsonl"), "--output_dir", str(folder / "run"), *more]
    )


@settings(max_examples=60)
@given(pages=st.lists(st.integers(0, 9), min_size=2, max_size=60), share=st.floats(0.01, 0.99), seed=st.integers(0, 99))
def test_no_page_is_both_trained_on_and_held_out_and_no_question_is_lost(
    pages: list[int], share: float, seed: int
) -> None:
    examples = [Example(str(place), bytes([page + 1]), "?", ("1",), "mine") for place, page in enumerate(pages)]
    if len(set(pages)) < 2:
        with pytest.raises(DataError, match="about 1 page"):
            held_out(examples, share, seed=seed)
        return
    train_on, held = held_out(examples, share, seed=seed)
    assert not {example.image for example in train_on} & {example.image for example in held}
    assert sorted((e.id for e in [*train_on, *held]), key=int) == [e.id for e in examples]
    assert len(train_on)
    assert len(held)
    most = max(Counter(pages).values())
    assert len(held) < share * len(pages) + most or len({e.image for e in train_on}) == 1
    again = held_out(examples, share, seed=seed)
    assert [list(part) for part in again] == [list(train_on), list(held)]


def test_the_documented_command_ends_with_a_table_of_the_held_out_part(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(mine, *QUICK, "--max_steps", "2", "--held_out", "0.3", "--evaluate_steps", "1")
    told = capsys.readouterr()
    assert "mix, evaluate_mix, evaluate_documents of the recipe are about its own data and are left out" in told.err
    assert "4 of 12 questions are held out" in told.err
    assert "| full | mine | 4 |" in told.out
    samples = (mine / "run" / "evaluation" / "samples.jsonl").read_text().splitlines()
    measured = {json.loads(line)["question"].strip() for line in samples}
    trained = {
        json.loads(line)["question"].strip()
        for file in (mine / "run" / "rollouts").glob("*.jsonl")
        for line in file.read_text().splitlines()
    }
    assert len(measured) == 2
    assert trained
    assert not measured & trained
    best = json.loads((mine / "run" / "policy-best" / "held_out.json").read_text())
    assert best["step"] in (0, 1, 2)
    assert 0 <= best["measured"]["held_out/accuracy"] <= 1
    assert f"policy-best did best on held-out questions, at step {best['step']}" in told.err
    assert load_file(mine / "run" / "policy-best" / "model.safetensors").keys() == (
        load_file(mine / "run" / "policy" / "model.safetensors").keys()
    )


def test_a_finished_run_is_made_longer_and_goes_on_as_if_it_had_never_ended(mine: Path) -> None:
    more = [*QUICK, "--held_out", "0", "--lr_scheduler_type", "constant", "--warmup_steps", "0"]
    train(mine, *more, "--max_steps", "1")
    first = load_file(mine / "run" / "policy" / "model.safetensors")
    train(mine, *more, "--max_steps", "2")
    longer = load_file(mine / "run" / "policy" / "model.safetensors")
    assert any(not first[name].equal(longer[name]) for name in first)
    anew = ["--config", str(RECIPE), "--data", str(mine / "mine.jsonl"), "--output_dir", str(mine / "at once")]
    grpo.main([*anew, *more, "--max_steps", "2"])
    at_once = load_file(mine / "at once" / "policy" / "model.safetensors")
    assert all(at_once[name].equal(longer[name]) for name in longer)
    said = fails(
        "--config", str(RECIPE), "--data", str(mine / "mine.jsonl"), "--output_dir", str(mine / "run"), *more,
        "--max_steps", "1",
    )  # fmt: skip
    assert "max_steps: 2, now 1" in said


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--held_out", "1"], "held_out 1 is a share"),
        (
            ["--held_out", "0", "--evaluate_steps", "1"],
            "evaluate_steps measures held-out questions, and there are none",
        ),
        (["--evaluate_steps", "-1"], "not negative"),
        (["--eval_data", "none.jsonl"], r"none.jsonl: No such file"),
        (["--mix", "receipts=1"], "mix 'receipts=1': there is no such source; there are mine"),
        (
            ["--per_device_train_batch_size", "64"],
            "10 examples are too few: a generation takes 32 prompts. Give more, or set per_device_train_batch_size to",
        ),
    ],
)
def test_what_cannot_be_measured_or_trained_on_is_one_line(mine: Path, more: list[str], said: str) -> None:
    line = fails(
        "--config", str(RECIPE), "--data", str(mine / "mine.jsonl"), "--output_dir", str(mine / "run"), *QUICK, *more
    )
    assert said in line


def test_the_policy_is_measured_on_the_held_out_questions_while_it_trains(tmp_path: Path) -> None:
    examples = RenderedPages(20, seed=3)
    kept: list[Path] = []

    def save(run: Any, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        kept.append(folder)

    run = trainer(tmp_path, examples=examples[:16], held_out=examples[16:], save=save, evaluate_steps=2, max_steps=4)
    run.train()
    found = run.measure_held_out()
    assert len(logged(run, "held_out/accuracy")) == 2
    assert set(found) == {
        "held_out/accuracy",
        "held_out/accuracy/large print",
        "held_out/accuracy/small print",
        "held_out/zoom",
        "held_out/of_full",
    }
    assert 1 <= len(kept) <= 3
    assert set(kept) == {tmp_path / "policy-best"}


def test_the_more_accurate_policy_is_better_and_of_equals_the_cheaper_one(tmp_path: Path) -> None:
    kept: list[int] = []

    def best() -> BestPolicy:
        def save(folder: Path) -> None:
            folder.mkdir(parents=True, exist_ok=True)
            kept.append(len(kept))

        return BestPolicy(tmp_path, save)

    def found(accuracy: float, tokens: float) -> dict[str, float]:
        return {"held_out/accuracy": accuracy, "held_out/of_full": tokens}

    run = best()
    assert run.step is None
    assert run.consider(10, found(0.5, 0.3))
    assert not run.consider(20, found(0.5, 0.3))
    assert not run.consider(30, found(0.4, 0.1))
    run = best()  # another process
    assert run.step == 10
    assert run.consider(40, found(0.5, 0.2))
    assert run.consider(50, found(0.6, 0.9))
    assert (run.step, len(kept)) == (50, 3)
    (tmp_path / "policy-best" / "held_out.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        best()
