"""The command line: what it prints, what it costs, and one line for every mistake."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any, ClassVar

import huggingface_hub
import huggingface_hub.constants
import pytest
from langchain_core.messages import AIMessage
from PIL import Image

from tests.scripted_chat import ScriptedChat
from tests.test_images import png_header
from vtagent.cli import run
from vtagent.errors import DataError, ModelError
from vtagent.hub import check_available
from vtagent.models.chat import ChatVLM
from vtagent.training.documents import render as documents
from vtagent.visual_tokens import QWEN3_VL

ROOT = Path(__file__).parent.parent
ZOOM = AIMessage("<think>Too small.</think>", tool_calls=[{"name": "zoom_image", "args": {}, "id": "call-1"}])
ANSWER = AIMessage("<think>Now I can.</think><answer>48.10</answer>")


class Scripted(ScriptedChat):
    """A scripted model with the `vision` and `image_store` of a `ChatVLM`."""

    vision: Any = QWEN3_VL
    image_store: Any = None


def mode_and_size(path: str | Path) -> tuple[str, tuple[int, int]]:
    """Returns the mode and the size of an image file."""
    with Image.open(path) as image:
        return image.mode, image.size


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.png"
    Image.new("RGB", (640, 480), "white").save(path)
    return path


def scripted(monkeypatch: pytest.MonkeyPatch, *replies: AIMessage) -> Scripted:
    """Makes `vtagent ask` use a scripted model instead of loading weights."""
    model = Scripted(lines=list(replies))

    def load(name: str, *, image_store: Any) -> Scripted:
        model.image_store = image_store
        return model

    monkeypatch.setattr(ChatVLM, "from_pretrained", load)
    return model


def report(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert run([*map(str, arguments), "--json"]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    return told


def test_ask_prints_the_answer_and_the_path_it_took(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(monkeypatch, ZOOM, ANSWER)
    assert run(["ask", str(page), "What is the Total?"]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0] == "48.10"
    told = [
        "looked   at the image small: 320 × 256 pixels, 80 visual tokens",
        "decided  to zoom — Too small.",
        "zoomed   on all of the image: 640 × 480 pixels, 300 visual tokens",
        "decided  to answer — Now I can.",
        "tokens   380 visual tokens; full resolution at once costs 300 (127% of it)",
    ]
    lines = [line.rstrip() for line in printed.splitlines()]
    assert lines[2:7] == told
    assert lines[7].startswith("time ")


def test_ask_tells_a_script_everything_as_one_json_object(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(monkeypatch, ANSWER)
    told = report(capsys, "ask", page, "What is the Total?")
    assert told["answer"] == "48.10"
    assert told["images"] == [str(page)]
    assert [step["step"] for step in told["path"]] == ["look", "decision"]
    assert (told["visual_tokens"], told["full_visual_tokens"], told["zooms"]) == (80, 300, 0)
    assert told["seconds"] >= 0


def test_ask_saves_the_views_that_the_model_saw(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(monkeypatch, ZOOM, ANSWER)
    told = report(capsys, "ask", page, "What is the Total?", "--save-views", tmp_path / "seen")
    saved = [(Path(step["file"]).name, mode_and_size(step["file"])[1]) for step in told["path"] if "file" in step]
    assert saved == [("1-look-image1.png", (320, 256)), ("2-zoom-image1.png", (640, 480))]


def test_max_zooms_0_does_not_offer_the_tool(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = scripted(monkeypatch, ANSWER)
    assert report(capsys, "ask", page, "Total?", "--max-zooms", 0)["zooms"] == 0
    assert model.offered == [[]]


def test_zoom_bias_reaches_the_model(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = scripted(monkeypatch, ANSWER)
    report(capsys, "ask", page, "--zoom-bias", -2.5, "Total?")
    assert model.options[0]["zoom_bias"] == -2.5


def test_options_may_stand_anywhere_between_images_and_question(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(monkeypatch, ANSWER)
    told = report(capsys, "ask", page, "--max-zooms", 1, page, "Total?")
    assert told["images"] == [str(page), str(page)]
    assert told["question"] == "Total?"


def test_what_a_model_says_cannot_drive_the_terminal(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m\x1b[2J").mkdir()
    monkeypatch.chdir(tmp_path)
    scripted(monkeypatch, AIMessage("<think>[red]</think><answer>\x1b]0;owned\x07[bold]48</answer>"))
    assert run(["ask", str(page), "Total?", "--model", "m\x1b[2J"]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "[bold]48" in printed


# --- mistakes ---------------------------------------------------------------------------------------------------------


def failure(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Runs a command that fails, and returns its exit code and its one line on stderr."""
    try:
        code = run([*map(str, arguments)])
    except SystemExit as stopped:  # argparse leaves this way
        code = int(stopped.code or 0)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    return code, captured.err


def test_a_missing_file_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    code, line = failure(capsys, "ask", "nowhere.png", "Total?")
    assert code == 2
    assert "nowhere.png" in line


def test_a_file_that_is_no_image_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("Not an image.")
    assert failure(capsys, "ask", tmp_path / "notes.txt", "Total?")[0] == 2


def test_a_bomb_that_pillow_only_warns_of_is_one_line_too(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png_header(10_000, 10_000))
    command = [sys.executable, "-m", "vtagent", "ask", str(tmp_path / "bomb.png"), "Total?"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert "10000x10000" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["look"],
        ["ask"],
        ["ask", "page.png"],
        ["ask", "page.png", "Total?", "--colour"],
        ["ask", "page.png", "Total?", "--max-zooms", "-1"],
        ["ask", "page.png", "Total?", "--timeout", "0"],
        ["ask", "page.png", "Total?", "--base-url", "http://localhost/v1", "--zoom-token-id", "call"],
    ],
)
def test_a_wrong_command_line_points_to_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, line = failure(capsys, *arguments)
    assert code == 2
    assert "--help" in line


def test_an_unknown_model_is_named(page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, line = failure(capsys, "ask", page, "Total?", "--model", tmp_path / "nothing-here")
    assert code == 4
    assert "nothing-here" in line


@pytest.mark.parametrize(
    ("module", "extra", "options"),
    [("torch", "local", []), ("langchain_openai", "openai", ["--base-url", "http://127.0.0.1:9/v1"])],
)
def test_a_missing_extra_is_named(module: str, extra: str, options: list[str], page: Path) -> None:
    code = f"import sys; sys.modules[{module!r}] = None; from vtagent.cli import run; sys.exit(run(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "ask", str(page), "Total?", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 3, done.stderr
    assert done.stderr.count("\n") == 1
    assert f"pip install 'vtagent[{extra}]'" in done.stderr


def test_an_unexpected_error_is_one_line_unless_debug_is_asked_for(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug\nover two lines")

    monkeypatch.setattr(ChatVLM, "from_pretrained", broken)
    code, line = failure(capsys, "ask", page, "Total?")
    assert code == 1
    assert "a bug over two lines" in line
    with pytest.raises(RuntimeError, match="a bug"):
        run(["ask", str(page), "Total?", "--debug"])


WITHOUT = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r} or name.startswith({module!r} + "."):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked())
from vtagent.__main__ import main
main()
"""


def without(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs the command in a process that lacks a module."""
    command = [sys.executable, "-c", WITHOUT.format(module=module), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)


@pytest.mark.parametrize(
    "arguments", [[], ["--help"], ["--version"], ["ask", "page.png", "Total?"], ["chat", "--help"]]
)
def test_without_rich_every_command_line_says_which_extra_it_needs(arguments: list[str]) -> None:
    done = without("rich", *arguments)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "vtagent: error: this needs an extra: pip install 'vtagent[cli]'\n"


def test_without_sqlite_ask_works_and_chat_says_which_extra_it_needs(page: Path, tmp_path: Path) -> None:
    done = without("langgraph.checkpoint.sqlite", "chat", "--thread", "t1", "--state", tmp_path / "state")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "vtagent chat: error: this needs an extra: pip install 'vtagent[cli]'\n"
    done = without("langgraph.checkpoint.sqlite", "ask", page, "Total?", "--model", tmp_path / "none")
    assert done.returncode == 4, done.stderr


def test_a_package_that_no_extra_installs_is_not_explained_away() -> None:
    done = without("langchain_core", "--help")
    assert done.returncode == 1
    assert "ModuleNotFoundError: No module named 'langchain_core'" in done.stderr


# --- what people give -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("question", ["", "   ", "\n\t"])
def test_an_empty_question_is_refused_before_anything_is_loaded(
    question: str, page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = scripted(monkeypatch, ANSWER)
    assert failure(capsys, "ask", page, question) == (2, "vtagent ask: error: the question is empty\n")
    assert model.seen == []


@pytest.mark.parametrize("head", [b"%PDF-1.7\n", b"\xef\xbb\xbf%PDF-1.4\n"])
def test_a_pdf_is_answered_with_what_to_do(head: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "an invoice.pdf"
    file.write_bytes(head + b"1 0 obj" * 50)
    code, line = failure(capsys, "ask", file, "Total?")
    assert code == 2
    told = f"'{file}' is a PDF: ask about its pages with vtagent docqa '{file}' \"QUESTION\""
    assert line == f"vtagent ask: error: {told}\n"


def test_of_many_images_the_one_that_cannot_be_used_is_named(
    page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "cut.png"
    cut.write_bytes(page.read_bytes()[:-40])
    code, line = failure(capsys, "ask", page, cut, "Total?")
    assert code == 2
    assert line.startswith(f"vtagent ask: error: '{cut}': ")
    code, line = failure(capsys, "ask", page, tmp_path, "Total?")
    assert code == 2
    assert line.count(str(tmp_path)) == 1


@pytest.mark.parametrize("compression", ["group4", "jpeg", "tiff_adobe_deflate", "tiff_lzw"])
def test_what_libtiff_says_of_a_damaged_file_does_not_reach_the_terminal(compression: str, tmp_path: Path) -> None:
    pytest.importorskip("vtagent.formats.libtiff")
    image = Image.effect_noise((320, 240), 90.0)
    data = io.BytesIO()
    (image.convert("1") if compression == "group4" else image.convert("RGB")).save(
        data, "TIFF", compression=compression
    )
    damaged = bytearray(data.getvalue())
    spots = random.Random(1)
    for _ in range(200):
        damaged[spots.randrange(500, len(damaged) - 500)] = spots.randrange(256)
    (tmp_path / "damaged.tif").write_bytes(damaged)
    command = [sys.executable, "-m", "vtagent", "ask", tmp_path / "damaged.tif", "?", "--model", tmp_path / "none"]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode in (2, 4)
    assert done.stderr.count("\n") == 1, done.stderr


# --- models that are not there ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "zooom",
            "give a checkpoint's folder, a hub id such as Qwen/Qwen3-VL-2B-Instruct, or a bundled policy (base, zoom)",
        ),
        ("some/where/else", "give a checkpoint's folder"),
        ("no-such/model", "it is not on this machine, and downloads are switched off (HF_HUB_OFFLINE)"),
    ],
)
@pytest.mark.parametrize("command", [["ask", "PAGE", "Total?"], ["chat", "PAGE", "--thread", "t1"]])
def test_a_model_that_cannot_be_anywhere_is_refused_by_name(
    command: list[str],
    name: str,
    told: str,
    page: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    words = [str(page) if word == "PAGE" else word for word in command]
    code, line = failure(capsys, *words, "--model", name)
    assert code == 4
    assert f"no model at '{name}': " in line
    assert told in line


def test_an_unknown_model_without_a_network_costs_no_retries(page: Path, tmp_path: Path) -> None:
    """Retries take 50 s. What counts is processor time, since other tests run beside this one."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    environment |= {"HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"}
    environment = {name: value for name, value in environment.items() if not name.lower().endswith("_proxy")}
    command = [sys.executable, "-X", "importtime", "-m", "vtagent", "ask", str(page), "?", "--model", "no-such/model"]
    began = os.times()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, env=environment)
    ended = os.times()
    told = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert told == [
        "vtagent ask: error: no model at 'no-such/model': it is not on this machine, and 127.0.0.1 cannot be reached"
    ]
    assert done.returncode == 4
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert not imported & {"torch", "transformers", "huggingface_hub", "langgraph"}
    assert ended.children_user - began.children_user < 3  # 0.3 s on an idle machine


def test_a_model_that_was_downloaded_is_used_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "TRANSFORMERS_OFFLINE", "http_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match=r"127\.0\.0\.1 cannot be reached"):
        check_available("some/model")
    assert "HF_HUB_OFFLINE" not in os.environ
    snapshot = tmp_path / "hub" / "models--some--model" / "snapshots" / "0a1b"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    check_available("some/model")
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert huggingface_hub.constants.HF_HUB_OFFLINE
    check_available("some/model")


def test_with_a_network_the_hub_decides(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "http_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", server)
    check_available("some/model")
    assert "HF_HUB_OFFLINE" not in os.environ
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", server)
    check_available("some/model")


# --- servers ----------------------------------------------------------------------------------------------------------


class Server(BaseHTTPRequestHandler):
    """An OpenAI-compatible server that first zooms and then answers, and records the requests."""

    received: ClassVar[list[dict[str, Any]]] = []
    tokens: ClassVar[list[int] | None] = None
    """The token ids of `<tool_call>`; None if the server has no /tokenize, as most servers."""

    def do_GET(self) -> None:
        self._reply(
            200, {"object": "list", "data": [{"id": "served", "object": "model", "created": 0, "owned_by": "us"}]}
        )

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize" and body["prompt"] == "<tool_call>":
            told = {"tokens": self.tokens, "count": 1, "max_model_len": 4096}
            return self._reply(404, {"error": "no such path"}) if self.tokens is None else self._reply(200, told)
        self.received.append(body)
        if body["model"] != "served":
            return self._reply(404, {"error": {"message": "no such model\nhere", "type": "NotFoundError"}})
        function = {"name": "zoom_image", "arguments": '{"region": [0, 0, 500, 500]}'}
        message: dict[str, Any] = {"role": "assistant", "content": "<think>Now I can.</think><answer>48.10</answer>"}
        if len(self.received) == 1:
            call = {"id": "call-1", "type": "function", "function": function}
            message = {"role": "assistant", "content": "<think>Too small.</think>", "tool_calls": [call]}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        self._reply(
            200,
            {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": "served",
                "choices": [choice],
                "usage": usage,
            },
        )

    def _reply(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Server.received.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        thread = Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/v1"
        running.shutdown()
        thread.join()


def test_a_server_is_asked_for_its_model_and_sent_pixels(
    page: Path, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = report(capsys, "ask", page, "Total?", "--base-url", server)
    assert (told["answer"], told["model"], told["zooms"]) == ("48.10", "served", 1)
    assert next(step for step in told["path"] if step["step"] == "zoom")["region"] == [0, 0, 500, 500]
    sent = [json.dumps(request) for request in Server.received]
    assert [text.count("data:image/png;base64,") for text in sent] == [1, 2]
    assert "vtimg://" not in sent[0] + sent[1]


def test_max_tokens_reaches_a_server_under_the_name_that_such_servers_know(
    page: Path, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report(capsys, "ask", page, "Total?", "--base-url", server, "--max-tokens", 900)
    assert [request.get("max_tokens") for request in Server.received] == [900, 900]
    assert not any("max_completion_tokens" in request for request in Server.received)
    Server.received.clear()
    report(capsys, "ask", page, "Total?", "--base-url", server)
    assert not any("max_tokens" in request for request in Server.received)


def test_a_reply_that_was_cut_is_no_answer_and_the_error_names_the_option(
    page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(["ask", str(page), "What is the Total?", "--max-zooms", "0", "--max-tokens", "4", "--json"])
    printed = capsys.readouterr()
    assert (code, json.loads(printed.out)["stop"], json.loads(printed.out)["answer"]) == (4, "length", None)
    assert "cut at the limit of tokens: raise --max-tokens" in printed.err


@pytest.mark.parametrize("wrong", ["0", "-3", "many"])
def test_max_tokens_is_a_whole_number_above_0(wrong: str, page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(["ask", str(page), "Total?", "--max-tokens", wrong])
    assert "--max-tokens" in capsys.readouterr().err


def test_a_local_model_runs_where_and_as_it_is_told(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {}

    def load(name: str, **settings: Any) -> Any:
        told.update(settings)
        raise DataError("enough")

    monkeypatch.setattr("vtagent.models.chat.ChatVLM.from_pretrained", load)
    options = ["--device", "auto", "--dtype", "float16", "--memory", "1.5", "--max-tokens", "9"]
    assert run(["ask", str(page), "Total?", *options]) == 2
    del told["image_store"]
    engine = {"device_map": "auto", "memory_bytes": 3 * 2**29}
    assert told == {"dtype": "float16", "engine_options": engine, "max_tokens": 9}


def test_zoom_bias_reaches_a_server_as_the_logit_bias_of_its_call_token(
    page: Path, server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report(capsys, "ask", page, "Total?", "--base-url", server, "--zoom-bias", 2, "--zoom-token-id", 7)
    assert [request.get("logit_bias") for request in Server.received] == [{"7": 2.0}, None]  # then it must answer
    Server.received.clear()
    monkeypatch.setattr(Server, "tokens", [151657])
    report(capsys, "ask", page, "Total?", "--base-url", server, "--zoom-bias", -1.5)
    assert Server.received[0]["logit_bias"] == {"151657": -1.5}


@pytest.mark.parametrize("tokens", [None, [27, 91]])
def test_a_server_that_does_not_tell_its_call_token_needs_it_as_an_option(
    tokens: list[int] | None,
    page: Path,
    server: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Server, "tokens", tokens)
    code, line = failure(capsys, "ask", page, "Total?", "--base-url", server, "--zoom-bias", 2)
    assert code == 4
    assert "--zoom-token-id" in line


def test_a_model_that_a_server_lacks_is_named(page: Path, server: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, line = failure(capsys, "ask", page, "Total?", "--base-url", server, "--model", "other")
    assert code == 4
    assert "no such model here" in line


@pytest.mark.parametrize("named", [True, False])
def test_what_cannot_be_a_servers_url_is_named(named: bool, page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ["--model", "served"] if named else []
    code, line = failure(capsys, "ask", page, "Total?", "--base-url", "http://localhost:abc/v1", *model)
    assert code == 4
    assert "http://localhost:abc/v1" in line


def test_an_unreachable_server_is_named(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, line = failure(capsys, "ask", page, "Total?", "--base-url", "http://127.0.0.1:9/v1")
    assert code == 4
    assert "no server answers at http://127.0.0.1:9/v1" in line


ANSWERS: dict[str, tuple[bytes, str, str]] = {
    "a page": (b"<html>Welcome</html>", "text/html", "is the URL right?"),
    "no completion": (b"{}", "application/json", "is the URL right?"),
    "broken JSON": (b'{"id": "1", "cho', "application/json", "is the URL right?"),
    "half of it": (b'{"id": "1", "cho', "application/json", "peer closed connection"),
    "nothing": (b"", "application/json", "--timeout"),
}


@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize("named", [True, False])
def test_a_server_that_answers_otherwise_is_told_of_in_one_line(
    kind: str, named: bool, page: Path, server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    body, mime, told = ANSWERS[kind]
    if kind == "no completion" and not named:
        told = "lists no model"
    over = Event()

    def reply(self: Server, *_: Any) -> None:
        if not body:
            over.wait(30)
            return
        self.send_response(200)
        self.send_header("Content-Type", mime)
        self.send_header("Content-Length", str(len(body) + 50 * (kind == "half of it")))
        self.end_headers()
        self.wfile.write(body)

    monkeypatch.setattr(Server, "_reply", reply)
    began = time.monotonic()
    model = ["--model", "served"] if named else []
    code, line = failure(capsys, "ask", page, "Total?", "--base-url", server, "--timeout", "0.3", *model)
    over.set()
    assert code == 4
    assert told in line
    assert server in line
    assert time.monotonic() - began < 25


# --- samples ----------------------------------------------------------------------------------------------------------


def rows(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "questions.jsonl").read_text(encoding="utf-8").splitlines()]


def test_samples_writes_documents_with_questions_and_gold_answers(tmp_path: Path) -> None:
    assert run(["samples", str(tmp_path), "--count", "6"]) == 0
    written = rows(tmp_path)
    assert [row["print"] for row in written] == ["large", "small"] * 3
    assert all(row["question"] and row["answer"] for row in written)
    assert all(mode_and_size(tmp_path / row["image"])[0] == "RGB" for row in written)
    assert len(list(tmp_path.glob("*.png"))) == 6


def test_samples_of_one_seed_are_the_same_documents(tmp_path: Path) -> None:
    for name, seed in [("a", "7"), ("b", "7"), ("c", "8")]:
        assert run(["samples", str(tmp_path / name), "--count", "2", "--seed", seed, "--print", "small"]) == 0
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")
    image = rows(tmp_path / "a")[0]["image"]
    assert (tmp_path / "a" / image).read_bytes() == (tmp_path / "b" / image).read_bytes()


def test_samples_never_overwrites_questions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["samples", str(tmp_path), "--count", "1"]) == 0
    capsys.readouterr()
    assert failure(capsys, "samples", tmp_path)[0] == 2
    assert len(rows(tmp_path)) == 1


def test_samples_that_were_cut_short_can_be_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib", None)
        documents.load_font.cache_clear()
        assert failure(capsys, "samples", tmp_path)[0] == 3
    assert run(["samples", str(tmp_path), "--count", "2"]) == 0


@pytest.mark.parametrize("command", [[], ["ask"], ["samples"]])
def test_help_teaches_with_examples_and_fits_a_terminal(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run([*command, "--help"])
    text = capsys.readouterr().out
    assert stopped.value.code == 0
    assert max(map(len, text.splitlines())) <= 80
    assert "exit codes:" in text
    assert not command or f"  vtagent {command[0]} " in text
