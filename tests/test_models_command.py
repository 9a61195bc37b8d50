"""`vtagent models`: the table, one model with its sources, and a name that nobody knows."""

from __future__ import annotations

import json

import pytest

from vtagent.cli import run
from vtagent.eyes import FAMILIES


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(["models", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_it_lists_every_known_family(capsys: pytest.CaptureFixture[str]) -> None:
    head, *lines = said(capsys).splitlines()
    assert head.split() == ["model", "such", "as", "API", "12", "Mpx", "low", "images", "of", "tools", "in", "boxes"]
    assert [line[: len(family.name)] for line, family in zip(lines, FAMILIES, strict=True)] == [
        family.name for family in FAMILIES
    ]


def test_it_prints_one_model_with_every_source(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "gpt-4o")
    for word in ("GPT-4o, 4.1, 4.5", "765 tokens", "85 tokens (11%)", '"detail": "low"', "user message", "thousandths"):
        assert word in text
    assert "[D] fit into 2,048²" in text
    assert "developers.openai.com" in text


def test_an_unknown_name_is_told_what_would_be_assumed(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "llava:13b\x1b[31m")
    assert "not in the table; what follows is assumed" in text
    assert "[?] assumed: boxes are 0-1000, x first" in text
    assert "\x1b" not in text


def test_json_is_one_object_or_a_list_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    listed = json.loads(said(capsys, "--json"))
    assert [row["rule"] for row in listed] == [family.name for family in FAMILIES]
    one = json.loads(said(capsys, "anthropic:claude-opus-4-7", "--json"))
    assert one["known"] is True
    assert one["limits"]["many_images_side"] == 2000
    assert one["vision"] == {"rule": "ClaudePatches", "max_edge": 2576, "max_tokens": 4784, "patch": 28}
    assert {fact["trust"] for fact in one["sources"]} == {"D", "M"}
    assert json.loads(said(capsys, "pixtral", "--json"))["known"] is False
