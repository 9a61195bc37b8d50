"""`vtagent chat` and `vtagent forget`: threads survive their process, and forgetting one leaves nothing behind."""

from __future__ import annotations

import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import BaseMessage
from langgraph.checkpoint.sqlite import SqliteSaver
from PIL import Image

from tests.scripted_chat import picture
from tests.test_cli import ANSWER, ZOOM, Scripted, scripted
from tests.test_zoom_state import conversation
from vtagent.chat_command import no_chat_under_way, state_folder
from vtagent.cli import run
from vtagent.conversation import image_blocks
from vtagent.errors import ModelError

ROOT = Path(__file__).parent.parent


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.png"
    Image.effect_noise((640, 480), 90.0).save(path)
    return path


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def chat(monkeypatch: pytest.MonkeyPatch, state: Path, said: str, *arguments: object, thread: str = "t1") -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(said))
    return run(["chat", *map(str, arguments), "--thread", thread, "--state", str(state)])


def contents(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("images/*/*"))


def test_each_line_is_a_question_and_the_images_are_shown_with_the_first(
    page: Path, state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = scripted(monkeypatch, ZOOM, ANSWER, ANSWER)
    assert chat(monkeypatch, state, "What is the total?\n\nAnd in words?\n", page) == 0
    assert len(list(image_blocks(model.seen[0]))) == 1
    assert [message.type for message in model.seen[2]] == ["system", "human", "ai", "tool", "human", "ai", "human"]
    printed = capsys.readouterr().out
    assert "48.10\nzoomed 1 ×; 380 of 300 visual tokens in view\n" in printed
    assert "48.10\ndid not zoom" in printed


def test_another_process_goes_on_with_the_thread(
    page: Path, state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(monkeypatch, ANSWER)
    chat(monkeypatch, state, "What is the total?", page)
    model = scripted(monkeypatch, ANSWER)
    assert chat(monkeypatch, state, "And in words?") == 0
    assert [message.text for message in model.seen[0] if message.type == "human"] == [
        "What is the total?",
        "And in words?",
    ]
    other = scripted(monkeypatch, ANSWER)
    chat(monkeypatch, state, "Hello?", thread="t2")
    assert len([message for message in other.seen[0] if message.type == "human"]) == 1


def test_a_run_that_ended_badly_is_finished_first_without_zooming_again(
    page: Path, state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def killed(messages: list[BaseMessage], options: Any) -> str:
        raise KeyboardInterrupt

    model = scripted(monkeypatch, ZOOM)
    model.lines.append(killed)
    assert chat(monkeypatch, state, "What is the total?", page) == 130
    model = scripted(monkeypatch, ANSWER)
    assert chat(monkeypatch, state, "", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["answer"], told["zooms"], told["turns"], len(model.seen)) == ("48.10", 1, 2, 1)


PROCESS = """
import sys, time
import vtagent.cli
from tests.scripted_chat import ANSWER, ZOOM, ScriptedChat
from vtagent.visual_tokens import QWEN3_VL

def never(messages, options):
    print("deciding what to say of the zoom", flush=True)
    time.sleep(3600)

lines = {"zooms": [ZOOM, never], "answers": [ANSWER]}[sys.argv[1]]
vtagent.cli._load = lambda *_, **__: ("m", ScriptedChat(lines=lines), QWEN3_VL)
sys.exit(vtagent.cli.run(sys.argv[2:]))
"""


def test_a_killed_process_leaves_its_question_to_the_next_one_that_reads_strictly(page: Path, state: Path) -> None:
    def process(does: str, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PROCESS, does, "chat", *map(str, arguments)]
        environment = {**os.environ, "LANGGRAPH_STRICT_MSGPACK": "true"}
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=ROOT, env=environment, text=True)

    thread = ("--thread", "t1", "--state", state)
    with process("zooms", page, *thread) as first:
        assert first.stdin is not None
        assert first.stdout is not None
        first.stdin.write("What is the total?\n")
        first.stdin.close()
        assert first.stdout.readline().startswith("deciding")
        os.kill(first.pid, signal.SIGKILL)
    with process("answers", *thread, "--json") as second:
        said, complaints = second.communicate()
    told = json.loads(said)
    assert (told["answer"], told["zooms"], told["turns"]) == ("48.10", 1, 2)
    assert "Blocked" not in complaints


def test_images_can_be_added_on_the_way(page: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = scripted(monkeypatch, ANSWER)
    assert chat(monkeypatch, state, f"Hello?\n/image {page}\nWhat is the total?\n") == 0
    assert [len(list(image_blocks(seen))) for seen in model.seen] == [0, 1]


def test_quit_ends_a_script_too_and_is_no_question(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = scripted(monkeypatch, ANSWER)
    assert chat(monkeypatch, state, "/tmp/page.png shows what?\n/quit now\nNever asked?\n") == 0
    assert [[message.text for message in seen if message.type == "human"] for seen in model.seen] == [
        ["/tmp/page.png shows what?"]
    ]


@pytest.mark.parametrize("line", ["/images page.png", "/help", "/exit", "/Image page.png"])
def test_a_command_that_does_not_exist_is_not_asked_of_the_model(
    line: str, state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = scripted(monkeypatch, ANSWER)
    assert chat(monkeypatch, state, f"{line}\nAnd this?\n") == 2
    told = f"there is no command {line.split()[0]}; there are /image PATH and /quit"
    assert capsys.readouterr().err == f"vtagent chat: error: {told}\n"
    assert model.seen == []


def test_at_a_terminal_a_command_that_does_not_exist_is_told(
    state: Path,
    typed: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = scripted(monkeypatch, ANSWER)
    typed("/help\nHello?\n/quit")
    assert run(["chat", "--thread", "t1", "--state", str(state)]) == 0
    assert "there is no command /help; there are /image PATH and /quit" in capsys.readouterr().out
    assert [message.text for message in model.seen[0] if message.type == "human"] == ["Hello?"]


def test_json_is_one_object_a_line(
    page: Path, state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(monkeypatch, ANSWER)
    chat(monkeypatch, state, "One?\nTwo?\n", page, "--json")
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["answer"], row["visual_tokens"]) for row in told] == [("48.10", 75 + 5)] * 2


def test_five_turns_on_a_megabyte_keep_the_database_small_though_every_step_is_saved(
    page: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page.write_bytes(picture(640, 540, noise=True))
    assert page.stat().st_size > 900_000
    lines = conversation(page)[0].lines
    assert len(lines) == 6
    scripted(monkeypatch, *lines)
    chat(monkeypatch, state, "\n".join(f"Line {n}?" for n in range(5)), page)
    assert sum(file.stat().st_size for file in state.glob("threads.sqlite*")) < 50_000
    with SqliteSaver.from_conn_string(str(state / "threads.sqlite")) as saver:
        assert len(list(saver.list({"configurable": {"thread_id": "t1"}}))) == 1


@pytest.mark.parametrize(
    ("said", "arguments", "code", "why"),
    [
        ("?", ["nowhere.png"], 2, "no image file at 'nowhere.png'"),
        ("/image nowhere.png\n?", [], 2, "no image file at 'nowhere.png'"),
        ("/image\n?", [], 2, "say which image: /image PATH"),
    ],
)
def test_a_mistake_in_a_script_is_one_line(
    said: str,
    arguments: list[str],
    code: int,
    why: str,
    state: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scripted(monkeypatch, ANSWER)
    assert chat(monkeypatch, state, said, *arguments) == code
    assert capsys.readouterr().err == f"vtagent chat: error: {why}\n"


def test_at_a_terminal_a_mistake_is_told_and_the_conversation_goes_on(
    state: Path,
    typed: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scripted(monkeypatch, ANSWER)
    typed("/image nowhere.png\n\nHello?\n/quit")
    assert run(["chat", "--thread", "t1", "--state", str(state)]) == 0
    printed = capsys.readouterr().out
    assert "no image file at 'nowhere.png'" in printed
    assert "48.10" in printed


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Types lines at a terminal; the last line ends the conversation."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def type_(said: str) -> None:
        lines = iter(said.splitlines())
        monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
        monkeypatch.setattr("sys.stdin", Terminal())

    return type_


def failing_once(monkeypatch: pytest.MonkeyPatch, error: Exception) -> Scripted:
    """A server whose first answer is an error."""
    model = Scripted(lines=[error, ANSWER])
    monkeypatch.setattr("vtagent.cli._load", lambda options, store: ("m", model, model.vision))
    return model


SERVED = ("--base-url", "http://127.0.0.1:9/v1")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ModelError(f"no server answers at {SERVED[1]}"), f"no server answers at {SERVED[1]}"),
        (PermissionError(13, "Permission denied", "images"), "Permission denied: 'images'"),
    ],
)
def test_at_a_terminal_a_server_that_failed_once_can_be_asked_again(
    error: Exception,
    told: str,
    state: Path,
    typed: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    failing_once(monkeypatch, error)
    typed("Hello?\nHello?\n/quit")
    assert run(["chat", *SERVED, "--thread", "t1", "--state", str(state)]) == 0
    printed = capsys.readouterr().out
    assert told in printed
    assert "48.10" in printed


def unfinished(monkeypatch: pytest.MonkeyPatch, state: Path) -> Scripted:
    """Makes a thread with an unanswered question; the next try to answer it fails, too."""
    broken = ModelError("out of memory")
    scripted(monkeypatch, broken)  # type: ignore[arg-type]
    assert chat(monkeypatch, state, "Hello?") == 4
    return scripted(monkeypatch, broken, ANSWER)  # type: ignore[arg-type]


def test_what_cannot_be_finished_does_not_keep_a_script_from_asking(
    state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unfinished(monkeypatch, state)
    assert chat(monkeypatch, state, "And now?") == 0
    printed = capsys.readouterr()
    assert "out of memory" in printed.err
    assert "48.10" in printed.out


def test_a_script_that_only_asks_to_finish_is_told_that_it_failed(
    state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unfinished(monkeypatch, state)
    capsys.readouterr()
    assert chat(monkeypatch, state, "") == 4
    assert capsys.readouterr().err == "vtagent chat: error: out of memory\n"


def test_what_cannot_be_finished_does_not_keep_a_person_from_asking(
    state: Path,
    typed: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    unfinished(monkeypatch, state)
    typed("And now?\n/quit")
    assert run(["chat", "--thread", "t1", "--state", str(state)]) == 0
    printed = capsys.readouterr().out
    assert "out of memory" in printed
    assert "48.10" in printed


@pytest.mark.parametrize("name", ["../t1", "a/b", "", ".hidden", "x" * 101])
@pytest.mark.parametrize("command", ["chat", "forget"])
def test_a_name_that_could_be_a_path_is_refused(command: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(["chat", f"--thread={name}"] if command == "chat" else ["forget", name])
    assert ended.value.code == 2
    assert "is not a name" in capsys.readouterr().err


def test_forgetting_a_thread_deletes_the_images_that_only_it_showed(
    page: Path, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = tmp_path / "shared.png"
    Image.new("RGB", (64, 64)).save(shared)
    scripted(monkeypatch, ANSWER)
    chat(monkeypatch, state, "?", page, shared)
    chat(monkeypatch, state, "?", shared, thread="t2")
    assert len(contents(state)) == 2
    capsys.readouterr()
    assert run(["forget", "t1", "--state", str(state)]) == 0
    assert capsys.readouterr().out == "forgot t1: 1 images deleted, 1 in use\n"
    assert run(["forget", "t2", "--state", str(state)]) == 0
    assert capsys.readouterr().out == "forgot t2: 1 images deleted, 0 in use\n"
    assert contents(state) == []


def test_a_grace_period_keeps_images_and_a_second_call_deletes_them(
    page: Path, state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(monkeypatch, ANSWER)
    chat(monkeypatch, state, "?", page)
    capsys.readouterr()
    assert run(["forget", "t1", "--state", str(state), "--grace", "60"]) == 0
    assert capsys.readouterr().out == "forgot t1: 0 images deleted, 0 in use; 1 too recent to delete (see --grace)\n"
    assert run(["forget", "t1", "--state", str(state)]) == 0
    assert capsys.readouterr().out == "there is no thread 't1' any more: 1 images deleted, 0 in use\n"
    assert run(["forget", "t1", "--state", str(state)]) == 2


def test_a_chat_that_is_under_way_keeps_the_images_it_has_not_asked_about(
    page: Path, state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(monkeypatch, ANSWER)
    chat(monkeypatch, state, "?", page)
    other = [sys.executable, "-c", PROCESS, "answers", "chat", str(page), "--thread", "t2", "--state", str(state)]
    with subprocess.Popen(other, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True) as under_way:
        assert under_way.stdin is not None
        assert under_way.stdout is not None
        while not (state / "chats.lock").exists() or is_alone(state):
            time.sleep(0.05)
        capsys.readouterr()
        assert run(["forget", "t1", "--state", str(state)]) == 0
        why = "a chat is under way; repeat this command when it has ended"
        assert capsys.readouterr().out == f"forgot t1: 0 images deleted, 0 in use; 1 too recent to delete ({why})\n"
        under_way.stdin.write("And this?\n")
        under_way.stdin.close()
        assert "48.10" in under_way.stdout.read()
    assert under_way.returncode == 0
    assert run(["forget", "t2", "--state", str(state)]) == 0
    assert capsys.readouterr().out == "forgot t2: 1 images deleted, 0 in use\n"


def is_alone(state: Path) -> bool:
    """Whether no other process has a chat under way."""
    with no_chat_under_way(state) as alone:
        return alone


def test_forgetting_what_is_not_there_says_so(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["forget", "t1", "--state", str(state)]) == 2
    assert "there is no thread 't1'" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["chat", "--thread"], ["forget"]])
def test_a_state_file_that_cannot_be_used_is_named(
    command: list[str], state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(monkeypatch, ANSWER)
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello?\n"))
    file = state / "threads.sqlite"
    state.mkdir()
    file.write_text("no database " * 100)
    assert run([*command, "t1", "--state", str(state)]) == 2
    assert capsys.readouterr().err == f"vtagent {command[0]}: error: {file}: file is not a database\n"


def test_a_state_file_that_another_process_has_locked_is_named(
    state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(monkeypatch, ANSWER)
    assert chat(monkeypatch, state, "Hello?") == 0
    capsys.readouterr()
    connect = sqlite3.connect
    monkeypatch.setattr("sqlite3.connect", partial(connect, timeout=0.01))
    other = connect(file := state / "threads.sqlite", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    assert chat(monkeypatch, state, "Hello?") == 2
    assert capsys.readouterr().err == f"vtagent chat: error: {file}: database is locked\n"
    other.close()


def test_the_folder_is_where_the_system_keeps_a_users_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert state_folder(None) == tmp_path / "xdg" / "vtagent"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert state_folder(None) == tmp_path / "home" / ".local" / "state" / "vtagent"


def test_the_model_is_given_the_threads_store(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Scripted = scripted(monkeypatch, ANSWER)
    chat(monkeypatch, state, "Hello?")
    assert model.image_store.path == state / "images"
