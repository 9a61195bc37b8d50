"""The README does what it says: its example runs, its commands exist, its picture is the graph."""

from __future__ import annotations

import ast
import re
import runpy
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

from vtagent.graphs.zoom import create_zoom_agent
from vtagent.options import parsers

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Every fenced block of a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_composition_example_is_at_most_ten_lines_and_stands_in_examples() -> None:
    (example,) = blocks("python")
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    file = ast.parse((ROOT / "examples" / "compose.py").read_text(encoding="utf-8"))
    assert [ast.unparse(line) for line in file.body[1:]] == [ast.unparse(line) for line in ast.parse(example).body]


@pytest.mark.parametrize(("name", "shown"), [("compose", "<answer>$170.71</answer>"), ("watch", "'answer': '$170.71'")])
def test_examples_run(
    name: str, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [name])
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"))
    assert shown in capsys.readouterr().out


def test_the_first_screen_holds_the_two_commands() -> None:
    first_screen = "\n".join(README.splitlines()[:24])
    assert "make demo" in first_screen
    assert "make test" in first_screen


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z]+)", README, re.MULTILINE)) <= targets


def test_every_vtagent_command_is_understood() -> None:
    commands = [shlex.split(line, comments=True) for block in blocks("sh") for line in block.splitlines()]
    ours = [command[1:] for command in commands if command and command[0] == "vtagent"]
    assert len(ours) >= 4
    _, by_name = parsers()
    for name, *arguments in ours:
        by_name[name].parse_intermixed_args(arguments)


def test_every_extra_is_described() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    described = set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE))
    assert described == set(declared) - {"dev"}


def test_every_link_into_the_repository_leads_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_picture_is_the_graph() -> None:
    (picture,) = blocks("mermaid")
    drawn = set(re.findall(r"(\w+)(?:\(\[\w+\]\))? (?:-->|-\. .+? \.->) (\w+)", picture))
    graph = create_zoom_agent().get_graph()
    assert drawn == {(edge.source, edge.target) for edge in graph.edges}
