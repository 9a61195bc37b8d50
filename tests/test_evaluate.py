"""Evaluation: what it asks, how it counts, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from vtagent.errors import DataError
from vtagent.training import evaluate
from vtagent.training.data import read_jsonl, rendered
from vtagent.training.evaluate import Outcome, markdown, summarize
from vtagent.training.supervised.policy import build_model, build_tokenizer, save_policy

ONE = Outcome(
    mode="zoom",
    source="small print",
    id="a",
    question="Total?",
    gold="1.50",
    answer="1.50",
    right=True,
    zooms=1,
    visual_tokens=175,
    full_visual_tokens=140,
    seconds=0.5,
)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("untrained")
    tokenizer = build_tokenizer()
    save_policy(build_model(tokenizer), tokenizer, folder)
    return folder


def test_a_summary_counts_each_mode_and_source_apart() -> None:
    wrong = replace(ONE, id="b", answer="7", right=False, zooms=0, visual_tokens=35)
    full = replace(ONE, mode="full", zooms=0, visual_tokens=140)
    first, second = summarize([ONE, wrong, full])
    assert (first["mode"], first["of full resolution"], first["zoomed"]) == ("full", 1.0, 0.0)
    assert (second["mode"], second["questions"], second["exact match"], second["zoomed"]) == ("zoom", 2, 0.5, 0.5)
    assert second["visual tokens"] == 105
    assert second["of full resolution"] == 0.75
    assert "| zoom | small print | 2 | 50.0% | 50.0% | 105.0 | 75.0% |" in markdown([first, second])


def test_fresh_documents_repeat_with_their_seed_and_are_half_large_half_small() -> None:
    first, again, other = (list(rendered(3, seed=seed)) for seed in (5, 5, 6))
    assert first == again
    assert first != other
    assert [example.source for example in first] == ["large print"] * 3 + ["small print"] * 3
    assert all(example.image.startswith(b"\x89PNG") for example in first)


def test_the_command_asks_every_question_in_every_mode(
    untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate.main(["--model", str(untrained), "--documents", "2", "--out", str(tmp_path)])
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 2 * 2 * 3
    assert {s["visual_tokens"] for s in samples if s["mode"] == "full"} == {140}
    assert {s["visual_tokens"] for s in samples if s["mode"] == "quarter"} == {35}
    assert all(s["zooms"] == 0 for s in samples if s["mode"] != "zoom")
    rows = json.loads((tmp_path / "summary.json").read_text())["rows"]
    assert [row["questions"] for row in rows] == [2] * 6
    assert "| quarter | small print | 2 |" in capsys.readouterr().out


def test_rows_of_a_file_are_read_with_their_images(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"pixels")
    row = {"image": "a.png", "question": "Total?", "answer": "1", "print": "large"}
    (tmp_path / "q.jsonl").write_text(json.dumps(row) + "\n")
    (example,) = read_jsonl(tmp_path / "q.jsonl")
    assert (example.image, example.question, example.answer) == (b"pixels", "Total?", "1")
    assert example.source == "large print"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("not json", "line 1: not a JSON object"),
        ("[1]", "line 1: not a JSON object"),
        ('{"image": "a.png", "answer": "1"}', "line 1: image 'a.png': No such file"),
        ('{"question": "?", "answer": "1"}', "line 1: no column 'image'"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path: Path, line: str, complaint: str) -> None:
    (tmp_path / "q.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match=complaint):
        list(read_jsonl(tmp_path / "q.jsonl"))


def test_a_model_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        evaluate.main(["--model", str(tmp_path / "none"), "--documents", "1", "--out", str(tmp_path)])
    assert ended.value.code == 1
    assert capsys.readouterr().err.count("\n") == 1
