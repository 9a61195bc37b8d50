"""Every Python snippet of docs/ runs as it stands, from the repository's examples, and every command can be read."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.sqlite import SqliteSaver

from benchmarks import region_zoom
from tests.checkpointers import IN_MEMORY
from tests.scripted_chat import ANSWER, ZOOM, ScriptedChat, asked, picture
from tests.test_chat_standard import SKIPPED
from tests.vllm.server import documented
from vtagent.graphs import create_zoom_agent
from vtagent.models import ChatVLM
from vtagent.models.families import tool_template
from vtagent.options import parsers
from vtagent.training.grpo import parse
from vtagent.training.rl.trainer import GraphGRPOTrainer

# TRL calls transformers by names that are going out of use; nothing of ours does.
pytestmark = pytest.mark.filterwarnings(r"ignore:`\w*gradient_checkpointing\w*` is deprecated:FutureWarning")

ROOT = Path(__file__).parent.parent
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
SNIPPETS = {page: re.findall(r"```python\n(.*?)```", text, re.DOTALL) for page, text in TEXTS.items()}
ELSEWHERE = {"serve.md"}  # asks a server: test_vllm_chat.py
SHOWN = {
    "compose.md": ["<answer>$170.71</answer> 1", "Seen: image 1, whole, at 112 × 80", "zoom_image", "\n$170.71\n"],
    "persist.md": ["$170.71\n", "Collected(deleted=()"],
    "train.md": ["4 receipts ('$170.71',)", "trained for 1 step", "$170.71 1"],
}


@pytest.mark.parametrize("page", [page for page, snippets in SNIPPETS.items() if snippets and page not in ELSEWHERE])
def test_its_snippets_run(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": page}
    for snippet in SNIPPETS[page]:
        exec(compile(snippet, page, "exec"), names)
    for value in names.values():  # their threads would live on beside the other tests
        if isinstance(value, GraphGRPOTrainer):
            value.collector.close()
        if isinstance(value, ChatVLM | GraphGRPOTrainer):
            value.engine.close()
    printed = capsys.readouterr().out
    for shown in SHOWN.get(page, ()):
        assert shown in printed


@IN_MEMORY
def test_the_snippet_that_drops_steps_leaves_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    [snippet] = [snippet for snippet in SNIPPETS["persist.md"] if "DELETE" in snippet]
    model, thread = ScriptedChat(lines=[ZOOM, ANSWER]), {"configurable": {"thread_id": "receipt"}}
    names = {"SqliteSaver": SqliteSaver, "create_zoom_agent": create_zoom_agent, "model": model, "thread": thread}
    with SqliteSaver.from_conn_string("threads.sqlite") as saver:
        agent: Any = create_zoom_agent(model, checkpointer=saver)
        agent.invoke({"messages": [asked("What is the total?", picture())]}, thread, durability="sync")
        exec(compile(snippet, "persist.md", "exec"), names)
        rows = [saver.conn.execute(f"SELECT count(*) FROM {table}").fetchone() for table in ("checkpoints", "writes")]
        assert (rows, agent.get_state(thread).values["answer"]) == ([(1,), (0,)], "48.10")


def commands() -> list[list[str]]:
    """What the pages tell to type, word by word."""
    found = []
    for text in TEXTS.values():
        text = re.sub(r"```.*?```", "", text, flags=re.DOTALL).replace("\\\n", " ")
        found += [shlex.split(line, comments=True) for line in re.findall(r"^    (?! |[*-] )(.+)$", text, re.MULTILINE)]
    return found


@pytest.mark.parametrize("words", commands(), ids=lambda words: " ".join(words)[:60])
def test_its_commands_can_be_read(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    match words:
        case ["python", "-m", "vtagent.training.grpo", *rest] | [
            "accelerate",
            "launch",
            "--multi_gpu",
            "--num_processes",
            _,
            "-m",
            "vtagent.training.grpo",
            *rest,
        ]:
            parse(rest)
        case ["python", "-c", code, ">", "tool_chat.jinja"]:
            exec(code, {})
            assert capsys.readouterr().out == tool_template() + "\n"
        case ["vtagent", command, *rest]:
            parsers()[1][command].parse_intermixed_args(rest)
        case ["vllm", "serve", model, *_]:
            documented(model)  # the contract tests start servers with it
        case ["python", "-m", module] if module.startswith("benchmarks."):
            assert (ROOT / f"{module.replace('.', '/')}.py").exists()
        case ["python", "-m", "benchmarks.region_zoom", *rest]:
            region_zoom.command_line().parse_args(rest)
        case ["pip", "install", *_] | ["langgraph", "dev"]:
            pass
        case _:
            pytest.fail(f"nobody knows whether this works: {words}")


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_its_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (page.parent / target).exists(), target
    for example in re.findall(r"`(examples/[\w.]+)`", text):
        assert (ROOT / example).exists(), example


def test_the_tests_own_page_names_files_that_exist() -> None:
    text = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    for name in re.findall(r"`((?:vllm/|server/|test_|contract_)[\w/*]*)(?:\.py)?`", text):
        assert any((ROOT / "tests").rglob(f"{name.rstrip('/*')}*")), name


def test_the_tests_own_page_lists_the_standard_tests_that_are_skipped() -> None:
    text = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \| (\d+) \|", text, re.MULTILINE)
    assert rows == [(name, str(len(tests))) for name, tests in SKIPPED.items()]
    assert re.findall(r"\s(\d+) skipped", text.replace(",\n", ", ")) == [str(sum(map(len, SKIPPED.values())))]


def table_paths(page: str) -> list[str]:
    """The files that a page's tables name, in order; the folders of the repository stand without a link."""
    return re.findall(r"`((?:vtagent|graphs|tools|training|tests)/[\w/]+\.\w+)`", TEXTS[page])


@pytest.mark.parametrize("page", ["design.md", "extend.md"])
def test_the_files_in_its_tables_exist(page: str) -> None:
    paths = table_paths(page)
    assert paths
    for path in paths:
        assert (ROOT / path).is_file(), path


def test_an_image_reference_passes_at_most_22_files() -> None:
    steps = re.findall(r"^\| (\d+) \| ([^|]+) \|", TEXTS["design.md"], re.MULTILINE)
    assert [int(number) for number, _ in steps] == list(range(1, len(steps) + 1))
    assert 2 <= len(steps) <= 22
    assert len({place for _, place in steps}) == len(steps), "no going back"
