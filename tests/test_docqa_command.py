"""`vtagent docqa`: one question, many, one after the other, and one line for every mistake."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from PIL import Image

from tests.pdfs import PdfPage, pdf, report
from tests.test_cli import ROOT, scripted
from vtagent.cli import run
from vtagent.training.documents import render_page

ABSENT = AIMessage("<think>No.</think><answer>not on the page</answer>")


def said(answer: str) -> AIMessage:
    return AIMessage(f"<think>There.</think><answer>{answer}</answer>")


@pytest.fixture
def warranty(tmp_path: Path) -> Path:
    path = tmp_path / "report.pdf"
    path.write_bytes(report(9, {4: "The warranty lasts 17 months."}))
    return path


def test_the_answer_is_printed_with_its_place_and_cost_and_the_page_is_saved_with_a_box(
    warranty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(monkeypatch, said("17 months"))
    question = "How long does the warranty last?"
    assert run(["docqa", str(warranty), question, "--save-evidence", str(tmp_path / "e")]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].strip() == "17 months"
    assert "report.pdf, page 4, (" in out
    assert "by the text layer" in out
    assert "1 looked at, 1 views" in out
    [file] = (tmp_path / "e").iterdir()
    assert file.name == "1-report.pdf-page4.png"
    with Image.open(file) as image:
        red = [image.getpixel((x, y)) for x in range(image.width) for y in range(0, image.height, 3)].count((208, 0, 0))
    assert red > 20


def test_as_json_the_answer_is_one_object(
    warranty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(monkeypatch, ABSENT)
    assert run(["docqa", str(warranty), "Who signed?", "--page", "2,5-6", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["found"], answer["text"], answer["question"]) == (False, "", "Who signed?")
    assert [page for step in answer["trail"] if step["step"] == "look" for page in step["pages"]] == [2, 5, 6]


def test_a_chat_answers_line_by_line(
    warranty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(monkeypatch, said("17 months"), said("Chapter 3"))
    monkeypatch.setattr(sys, "stdin", iter(["How long does the warranty last?\n", "\n", "Which is chapter 3?\n"]))
    assert run(["docqa", str(warranty), "--chat", "--json"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["text"] for answer in answers] == ["17 months", "Chapter 3"]


def questions(path: Path, count: int) -> Path:
    path.write_text("".join(json.dumps({"question": f"Chapter {n}?", "id": n}) + "\n" for n in range(1, count + 1)))
    return path


def test_a_batch_goes_on_where_it_stopped_and_tries_failed_questions_again(
    warranty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked, out = questions(tmp_path / "q.jsonl", 6), tmp_path / "a.jsonl"
    command = ["docqa", str(warranty), "--batch", str(asked), "--out", str(out), "--workers", "2"]
    model = scripted(monkeypatch, said("yes"))
    assert run(command) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted((line["id"], line["line"], line["text"]) for line in lines) == [(n, n, "yes") for n in range(1, 7)]
    failed = {"line": 6, "question": "Chapter 6?", "error": "the model is asleep"}
    kept = [json.dumps(line) for line in lines if line["line"] < 5]
    out.write_text("\n".join([*kept, json.dumps(failed)]) + '\n{"line": 5, "quest')
    calls = len(model.seen)
    assert run(command) == 0
    again = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(line["line"] for line in again if "error" not in line) == [1, 2, 3, 4, 5, 6]
    assert len(model.seen) == calls + 2
    assert "4 of 6 questions have an answer" in capsys.readouterr().err


def test_a_batch_that_is_killed_answers_every_question_once(tmp_path: Path) -> None:
    pages = [render_page(f"batch/{n}") for n in range(3)]
    document = tmp_path / "orders.pdf"
    document.write_bytes(pdf(PdfPage(size=(161.28, 115.2), image=page.image) for page in pages))
    asked, out = tmp_path / "q.jsonl", tmp_path / "a.jsonl"
    rows = [{"question": f"What is the Total in {page.headings[0]}?", "n": n} for n in range(6) for page in pages]
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-W", "ignore", "-m", "vtagent", "docqa", str(document), "--batch", str(asked)]
    command += ["--out", str(out), "--page", "1-3", "--max-pages", "1"]
    kills = 0
    for least in (2, 7):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and (not out.exists() or out.read_bytes().count(b"\n") < least):
            time.sleep(0.02)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills == 2
    assert len(out.read_bytes().splitlines()) < len(rows)
    assert subprocess.run(command, cwd=ROOT, check=False, capture_output=True).returncode == 0
    lines = [json.loads(line) for line in out.read_bytes().splitlines()]
    assert sorted(line["line"] for line in lines) == list(range(1, len(rows) + 1))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["report.pdf"], "name at least one file, then the question"),
        (["report.pdf", " "], "the question is empty"),
        (["report.pdf", "Who?", "--page", "7-3"], "names no pages: write 3, 3-7 or 1,4-6"),
        (["report.pdf", "Who?", "--page", "12"], "there is no page 12: report.pdf has 9"),
        (["report.pdf", "report.pdf", "Who?", "--page", "1"], "--page needs exactly one document"),
        (["none.pdf", "Who?"], "no file 'none.pdf'"),
        (["broken.pdf", "Who?"], "broken.pdf"),
        (["report.pdf", "--batch", "none.jsonl"], "none.jsonl: No such file or directory"),
        (["report.pdf", "--batch", "odd.jsonl"], 'odd.jsonl, line 2: write one object a line, such as {"question"'),
        (["report.pdf", "--batch", "q.jsonl", "--out", "other.jsonl"], "other.jsonl belongs to other questions"),
        (["report.pdf", "--batch", "q.jsonl", "--out", "report.pdf"], "report.pdf holds no answers of vtagent docqa"),
        (["report.pdf", "--batch", "q.jsonl", "--chat"], "--batch and --chat exclude each other"),
    ],
)
def test_each_mistake_is_one_line(
    arguments: list[str],
    says: str,
    warranty: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(warranty.parent)
    scripted(monkeypatch, ABSENT)
    Path("broken.pdf").write_bytes(b"%PDF-1.7\nnothing")
    Path("odd.jsonl").write_text('{"question": "Who?"}\n["Who?"]\n')
    questions(Path("q.jsonl"), 1)
    Path("other.jsonl").write_text('{"line": 1, "question": "Who else?", "text": ""}\n')
    before = warranty.read_bytes()
    assert run(["docqa", *arguments]) == 2
    error = capsys.readouterr().err
    assert says in error.splitlines()[-1]
    assert error.splitlines()[-1].startswith("vtagent docqa: error: ")
    assert warranty.read_bytes() == before


def test_two_documents_of_one_name_are_told_apart(
    warranty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "report.pdf").write_bytes(report(2, {1: "The guarantee lasts 3 years."}))
    scripted(monkeypatch, said("3 years"))
    files = [str(warranty), str(tmp_path / "other" / "report.pdf")]
    assert run(["docqa", *files, "How long does the guarantee last?", "--json"]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert [(place["document"], place["page"]) for place in answer["evidence"]] == [("report.pdf (2)", 1)]
