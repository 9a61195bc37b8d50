"""What `vtagent ask` and `vtagent chat` print when a model answers badly."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from PIL import Image

from tests.test_cli import ANSWER, failure, report, scripted
from vtagent.cli import run

NOTHING = AIMessage("")
BROKEN = AIMessage('<think>Too small.</think><tool_call>{"name": "zoom_image"</tool_call>')
UNKNOWN = AIMessage("", tool_calls=[{"name": "rotate", "args": {}, "id": "call-1"}])


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.png"
    Image.new("RGB", (640, 480), "white").save(path)
    return path


def ask(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[str], str]:
    """Runs `vtagent ask`, and returns its exit code, the lines of its stdout without padding, and its stderr."""
    code = run(["ask", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, [line.rstrip() for line in captured.out.splitlines()], captured.err


def test_a_reply_that_says_nothing_is_no_answer(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(monkeypatch, NOTHING)
    code, printed, told = ask(capsys, page, "Total?")
    assert code == 4
    assert told == "vtagent ask: error: the model gave no answer\n"
    assert printed[0] == "no answer"
    assert "stopped  it ended without an answer" in printed


def test_a_script_is_told_the_whole_path_of_a_run_without_an_answer(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(monkeypatch, NOTHING)
    code, printed, told = ask(capsys, page, "Total?", "--json")
    assert code == 4
    assert told == "vtagent ask: error: the model gave no answer\n"
    [line] = printed
    report = json.loads(line)
    assert (report["answer"], report["stop"]) == (None, "no_answer")
    assert report["path"][1:] == [{"step": "decision", "to": "answer", "think": None}]


def test_calls_that_do_not_parse_are_shown_as_refused_until_an_answer_is_forced(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(monkeypatch, BROKEN, BROKEN, BROKEN, ANSWER)
    code, printed, _ = ask(capsys, page, "Total?")
    assert code == 0
    assert printed[0] == "48.10"
    assert printed.count("decided  to nothing valid — Too small.") == 3
    assert len([line for line in printed if line.startswith("refused  ") and "not valid JSON" in line]) == 3
    assert "decided  to answer — Now I can." in printed
    assert "stopped  too many of its calls failed, so it had to answer" in printed


def test_a_script_is_told_of_the_calls_that_do_not_parse(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(monkeypatch, BROKEN, BROKEN, BROKEN, ANSWER)
    told = report(capsys, "ask", page, "Total?")
    assert (told["answer"], told["stop"], told["mistakes"], told["zooms"]) == ("48.10", "max_mistakes", 3, 0)
    assert [step["step"] for step in told["path"]] == ["look", *["decision", "refused"] * 3, "decision"]
    assert [step["to"] for step in told["path"] if step["step"] == "decision"] == ["nothing valid"] * 3 + ["answer"]


def test_a_model_that_goes_on_calling_in_vain_gives_no_answer(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(monkeypatch, BROKEN)
    code, printed, told = ask(capsys, page, "Total?")
    assert code == 4
    assert told == "vtagent ask: error: the model gave no answer\n"
    assert printed[0] == "no answer"


def test_a_tool_that_does_not_exist_is_refused_by_its_name(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(monkeypatch, UNKNOWN, ANSWER)
    code, printed, _ = ask(capsys, page, "Total?")
    assert code == 0
    assert "refused  There is no tool 'rotate'; call one of: zoom_image." in printed
    scripted(monkeypatch, UNKNOWN, ANSWER)
    told = report(capsys, "ask", page, "Total?")
    assert told["mistakes"] == 1
    assert [step["why"] for step in told["path"] if step["step"] == "refused"] == [
        "There is no tool 'rotate'; call one of: zoom_image."
    ]


# --- what cannot be printed as it is ----------------------------------------------------------------------------------


def test_half_a_character_from_a_model_is_left_out(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = AIMessage("<answer>48\ud83d</answer>")
    scripted(monkeypatch, said)
    assert report(capsys, "ask", page, "Total?")["answer"] == "48"
    scripted(monkeypatch, said)
    code, printed, _ = ask(capsys, page, "Total?")
    assert (code, printed[0]) == (0, "48")


def test_a_file_name_that_is_not_utf_8_is_printed_as_json(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = page.rename(page.with_name("page\udcff.png"))
    scripted(monkeypatch, ANSWER)
    assert report(capsys, "ask", odd, "Total?")["images"] == [str(odd)]


def test_half_a_character_from_a_model_does_not_end_a_chat(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(monkeypatch, AIMessage("<answer>48\ud83d</answer>"))
    monkeypatch.setattr("sys.stdin", io.StringIO("Total?\n"))
    assert run(["chat", str(page), "--thread", "t1", "--state", str(tmp_path / "state"), "--json"]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert told["answer"] == "48"


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_a_question_that_is_not_utf_8_is_a_mistake(
    errors: str, page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(monkeypatch, ANSWER)
    code, line = failure(capsys, "ask", page, "What \udcff is?")
    assert (code, line) == (2, "vtagent ask: error: the question is not UTF-8\n")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"What \xff is?\n"), "utf-8", errors))
    code, line = failure(capsys, "chat", page, "--thread", "t1", "--state", tmp_path / "state")
    assert (code, line) == (2, "vtagent chat: error: the question is not UTF-8\n")


def test_a_terminal_that_lacks_a_character_gets_the_answer_all_the_same(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(monkeypatch, ANSWER)
    printed = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(printed, "ascii", write_through=True))
    assert run(["ask", str(page), "Total?"]) == 0
    assert printed.getvalue().startswith(b"48.10")
    assert b"320 ? 256 pixels" in printed.getvalue()
    with pytest.raises(SystemExit, match="0"):
        run(["chat", "--help"])


@pytest.mark.parametrize(
    "arguments",
    [["ask", "PAGE", "Total?"], ["ask", "PAGE", "Total?", "--json"], ["chat", "--thread", "t1"], ["--help"]],
)
def test_who_stops_reading_is_told_nothing(
    arguments: list[str],
    page: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scripted(monkeypatch, ANSWER)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.stdin", io.StringIO("Total?\n"))
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        monkeypatch.setattr("sys.stdout", pipe)
        assert run([str(page) if argument == "PAGE" else argument for argument in arguments]) == 141
    assert capsys.readouterr().err == ""


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", ["nan", "inf", "1e999", "much"])
def test_a_zoom_bias_is_a_finite_number(bias: str, page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, line = failure(capsys, "ask", page, "Total?", "--zoom-bias", bias)
    assert code == 2
    assert "--zoom-bias" in line
