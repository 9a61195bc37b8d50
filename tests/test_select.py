"""Selection: eight answers at each resolution decide what a question is good for, and nothing is tried twice."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.fakes import scripted_vlm
from tests.scripted_chat import ScriptedChat, picture
from vtagent.errors import DataError
from vtagent.models.chat import ChatVLM
from vtagent.models.engine import Request
from vtagent.training import select as command
from vtagent.training.data import Example, Mixture, by_source, open_examples
from vtagent.training.rewards import build_grader
from vtagent.training.rl.collect import WorkingStore
from vtagent.training.selection.runner import TrialRunner, select
from vtagent.training.selection.trials import NEEDS_FULL, SUFFICES, Trial, TrialLog, kind_of, write_selected

PICTURE = picture(224, 160)
MADE: list[TrialRunner] = []


def example(name: str) -> Example:
    """A question whose first word tells the scripted policy how to fare."""
    return Example(name, PICTURE, f"{name}?", ("7",), "made up")


def policy(asked: list[str] | None = None, **options: Any) -> ChatVLM:
    """Right on "easy" everywhere, on "small" at full resolution alone, on "hard" never; fails on "broken"."""

    def say(request: Request, prompt: str) -> str:
        full = request.images[0].pixels.size == (224, 160)
        words = [word for word in ("easy", "small", "hard", "broken") if word in prompt]
        if asked is not None:
            asked.append(words[0])
        if words == ["broken"]:
            raise RuntimeError("this one always fails")
        right = words == ["easy"] or (words == ["small"] and full)
        return f"<think>.</think><answer>{7 if right else 8}</answer>"

    return scripted_vlm(say, **{"image_store": WorkingStore(), "temperature": 1.0, **options})


def trial_runner(model: ChatVLM, samples: int = 2, **options: Any) -> TrialRunner:
    made = TrialRunner(model, options.pop("grader", None) or build_grader("exact"), samples=samples, **options)
    MADE.append(made)
    return made


@pytest.fixture(autouse=True)
def end_event_loops() -> Iterator[None]:
    yield
    while MADE:
        MADE.pop().close()


def log(folder: Path, **settings: Any) -> TrialLog:
    return TrialLog(folder, settings)


ALL = [example(f"{word} {number}") for number in range(3) for word in ("easy", "small", "hard")]


@pytest.mark.parametrize(
    ("low", "full", "kind"),
    [(8, 8, SUFFICES), (7, 8, None), (8, 7, None), (2, 8, NEEDS_FULL), (0, 6, NEEDS_FULL), (3, 8, None), (0, 0, None)],
)
def test_the_papers_two_thresholds(low: int, full: int, kind: str | None) -> None:
    assert kind_of(low, full, 8, 6) == kind


@given(st.integers(1, 16), st.data())
def test_a_question_is_of_one_kind_at_most_and_more_gain_never_unmakes_it(samples: int, data: st.DataObject) -> None:
    low, full = (data.draw(st.integers(0, samples)) for _ in range(2))
    gain = data.draw(st.integers(1, samples))
    kind = kind_of(low, full, samples, gain)
    if kind == NEEDS_FULL:
        assert full > low
        assert kind_of(low, min(samples, full + 1), samples, gain) == NEEDS_FULL
    assert (kind == SUFFICES) == (low == full == samples)


def test_every_question_is_answered_at_both_resolutions(tmp_path: Path) -> None:
    asked: list[str] = []
    select(trial_runner(policy(asked)), ALL, log(tmp_path), gain=2)
    assert Counter(asked) == {"easy": 12, "small": 12, "hard": 12}
    found = {trial.id: (trial.low, trial.full) for trial in log(tmp_path).trials.values()}
    assert found == {e.id: {"easy": (2, 2), "small": (0, 2), "hard": (0, 0)}[e.id.split()[0]] for e in ALL}


def test_the_answers_of_a_question_are_seeded_apart_and_the_same_again() -> None:
    def seeds(seed: int) -> list[int | None]:
        model = policy()
        trial_runner(model, samples=4, seed=seed).counts([example("easy 1")])
        return sorted(request.sampling.seed or 0 for request in model.engine.requests)

    assert len(set(seeds(0))) == 8
    assert seeds(0) == seeds(0) != seeds(1)


def test_the_selected_rows_are_read_by_our_own_loader_and_balanced_by_kind(tmp_path: Path) -> None:
    trials = log(tmp_path)
    select(trial_runner(policy()), ALL, trials, gain=2)
    write_selected(tmp_path / "selected.jsonl", trials.selected(2))
    examples = open_examples(str(tmp_path / "selected.jsonl"))
    assert {e.id: e for e in examples} == {e.id: e for e in ALL if not e.id.startswith("hard")}
    parts = by_source(open_examples(str(tmp_path / "selected.jsonl"), columns=["source=kind"]))
    assert Counter(Mixture(parts).sources) == {SUFFICES: 3, NEEDS_FULL: 3}


def test_equal_pictures_are_one_file_and_rejected_ones_none(tmp_path: Path) -> None:
    select(trial_runner(policy()), ALL, log(tmp_path), gain=2)
    (file,) = (tmp_path / "images").iterdir()
    assert file.read_bytes() == PICTURE
    assert file.suffix == ".png"


def test_what_was_tried_is_not_tried_again(tmp_path: Path) -> None:
    asked: list[str] = []
    select(trial_runner(policy(asked)), ALL[:4], log(tmp_path), gain=2)
    before = len(asked)
    select(trial_runner(policy(asked)), ALL, log(tmp_path), gain=2)
    assert (before, len(asked)) == (4 * 4, 9 * 4)


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.test_select import ALL, log, policy, trial_runner
from vtagent.training.selection import runner as module

keep, kept = module._keep, []
def mortal(log, *arguments, **options):
    if len(kept) == 5:
        with log.path.open("a") as file:
            file.write('{"id": "easy 2", "image": "images/')
        os.kill(os.getpid(), signal.SIGKILL)
    kept.append(keep(log, *arguments, **options))
    return kept[-1]
module._keep = mortal
module.select(trial_runner(policy()), ALL, log(Path(sys.argv[1])), gain=2, batch=2)
"""


def test_a_selection_that_was_killed_in_mid_line_goes_on_after_the_last_whole_one(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], stderr=subprocess.DEVNULL, check=False)
    assert killed.returncode == -signal.SIGKILL
    asked: list[str] = []
    trials = log(tmp_path)
    assert len(trials.trials) == 5
    select(trial_runner(policy(asked)), ALL, trials, gain=2)
    assert len(asked) == 4 * 4
    assert set(log(tmp_path).trials) == {e.id for e in ALL}


def test_a_run_that_fails_leaves_its_question_untried_and_counted(tmp_path: Path) -> None:
    failures = select(trial_runner(policy()), [example("easy 1"), example("broken 1")], log(tmp_path), gain=2)
    (reason,) = failures
    assert "this one always fails" in reason
    assert set(log(tmp_path).trials) == {"easy 1"}


def test_a_judge_that_is_down_leaves_the_question_untried(tmp_path: Path) -> None:
    grader = build_grader("exact+judge", judge_model=ScriptedChat(lines=[ConnectionError("refused")]))
    assert grader.judge is not None
    grader.judge.backoff = 0.0
    doubtful = trial_runner(policy(), grader=grader)
    assert doubtful.counts([example("easy 1"), example("small 1")]) == [(2, 2), "the judge gave no verdict"]


def test_it_stops_when_there_are_enough_of_both_kinds(tmp_path: Path) -> None:
    many = [example(f"{word} {number}") for number in range(20) for word in ("easy", "small")]
    trials = log(tmp_path)
    select(trial_runner(policy()), many, trials, gain=2, want=2, batch=4)
    assert 4 <= len(trials.trials) < 40
    assert Counter(kind for kind, _ in trials.selected(2, 2)) == {SUFFICES: 2, NEEDS_FULL: 2}


def test_shards_share_the_work_and_the_folder(tmp_path: Path) -> None:
    done: list[set[str]] = []
    for part in (1, 2):
        trials = TrialLog(tmp_path, {}, name=f"trials-{part}-of-2.jsonl")
        before = set(trials.trials)
        select(trial_runner(policy()), ALL, trials, gain=2, shard=(part, 2))
        done.append(set(trials.trials) - before)
    assert not done[0] & done[1]
    assert set(log(tmp_path).trials) == done[0] | done[1] == {e.id for e in ALL}


def test_a_line_that_another_shard_is_writing_is_not_read_and_not_touched(tmp_path: Path) -> None:
    other = tmp_path / "trials-2-of-2.jsonl"
    other.write_text('{"id": "easy')
    assert TrialLog(tmp_path, {}, name="trials-1-of-2.jsonl").trials == {}
    assert other.read_text() == '{"id": "easy'


def test_a_folder_is_not_shared_by_two_selections(tmp_path: Path) -> None:
    log(tmp_path, samples=8)
    log(tmp_path, samples=8)
    with pytest.raises(DataError, match="holds another selection \\(samples: 8 there, 4 here\\); name another --out"):
        log(tmp_path, samples=4)


def test_a_line_that_is_no_trial_is_named(tmp_path: Path) -> None:
    (tmp_path / "trials.jsonl").write_text('{"id": "x"}\n')
    with pytest.raises(DataError, match=r"trials\.jsonl, line 1: not a trial"):
        log(tmp_path)


def test_the_order_of_the_selected_does_not_depend_on_who_was_first(tmp_path: Path) -> None:
    trials = [Trial(f"{number}", "images/a.png", "?", ("1",), "s", 8, 8, 8) for number in range(20)]
    orders = []
    for folder, order in (("a", trials), ("b", trials[::-1])):
        kept = log(tmp_path / folder)
        for trial in order:
            kept.add(trial)
        orders.append([trial.id for _, trial in kept.selected(2, 5)])
    assert orders[0] == orders[1]
    assert len(orders[0]) == 5


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command loads the scripted policy, whatever model is named."""
    monkeypatch.setattr(ChatVLM, "from_pretrained", lambda path, **options: policy(**options))


@pytest.mark.usefixtures("scripted")
def test_the_command_leaves_rows_a_summary_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "page.png").write_bytes(PICTURE)
    words = ["easy 1", "easy 2", "small 1", "hard 1"]
    rows = [{"image": "page.png", "question": word, "answer": "7", "source": word.split()[0]} for word in words]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    command.main(["--data", str(tmp_path / "rows.jsonl"), "--out", str(out)])
    said = capsys.readouterr()
    assert "easy: 2 tried, 2 low resolution suffices, 0 needs full resolution" in said.out
    assert "small: 1 tried, 0 low resolution suffices, 1 needs full resolution" in said.out
    assert f"3 of 4 questions are in {out / 'selected.jsonl'}" in said.out
    assert "4/4 questions" in said.err
    assert {e.question for e in open_examples(str(out / "selected.jsonl"))} == {"easy 1", "easy 2", "small 1"}
    assert json.loads((out / "summary.json").read_text())["selected"] == {SUFFICES: 2, NEEDS_FULL: 1}
    with Image.open(out / "histogram.png") as histogram:
        assert histogram.size[0] > 1000


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--data", "no.jsonl"], "no.jsonl: No such file or directory"),
        (["--gain", "9"], "--gain 9 can never be reached with 8 samples"),
        (["--grader", "guess"], "grader 'guess': name steps out of"),
        (["--grader", "judge"], "needs a judge"),
    ],
)
@pytest.mark.usefixtures("scripted")
def test_what_cannot_work_stops_at_the_start_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], complaint: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main([*options, "--out", str(tmp_path / "out")])
    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("shard", ["0/2", "3/2", "2", "a/b"])
def test_a_shard_is_a_part_of_a_whole(shard: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--shard", shard])
    assert "is no part such as 3/8" in capsys.readouterr().err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--help"])
    said = capsys.readouterr().out
    assert "low resolution suffices   all answers are right at both resolutions" in said
    assert "--shard 1/8" in said
