"""The bundled policies do what their cards say, on documents drawn for this test; bounds leave room for its size."""

from __future__ import annotations

import asyncio
from functools import cache
from pathlib import Path
from typing import Literal

import pytest

import vtagent.policies
from vtagent.models import ChatVLM
from vtagent.training.data import rendered
from vtagent.training.evaluate import Outcome, evaluate

FOLDER = Path(vtagent.policies.__file__).parent
Name = Literal["base", "zoom"]


@cache
def outcomes(name: Name, mode: str, temperature: float) -> list[Outcome]:
    model = ChatVLM.from_pretrained(name, temperature=temperature, max_tokens=64, seed=0 if temperature == 0 else None)
    return asyncio.run(evaluate(model, list(rendered(64, seed=77)), [mode]))


def share(name: Name, mode: str, source: str, of: Literal["right", "zooms"], *, temperature: float = 0.0) -> float:
    counted = [bool(getattr(o, of)) for o in outcomes(name, mode, temperature) if o.source == source]
    return sum(counted) / len(counted)


@pytest.mark.parametrize("source", ["large print", "small print"])
def test_base_reads_full_resolution(source: str) -> None:
    assert share("base", "full", source, "right") >= 0.85


def test_base_reads_large_print_at_a_quarter_of_the_pixels_and_small_print_not() -> None:
    assert share("base", "quarter", "large print", "right") >= 0.85
    assert share("base", "quarter", "small print", "right") <= 0.30


@pytest.mark.parametrize("source", ["large print", "small print"])
def test_base_zooms_on_about_half_whatever_the_print(source: str) -> None:
    assert 0.3 <= share("base", "zoom", source, "zooms", temperature=1.0) <= 0.7


def test_zoom_zooms_on_small_print_and_not_on_large() -> None:
    assert share("zoom", "zoom", "small print", "zooms") >= 0.9
    assert share("zoom", "zoom", "large print", "zooms") <= 0.1


@pytest.mark.parametrize("source", ["large print", "small print"])
def test_zoom_reads_what_it_decided_to_see(source: str) -> None:
    assert share("zoom", "zoom", source, "right") >= 0.85


def test_each_reply_keeps_to_the_protocol() -> None:
    answered = outcomes("zoom", "zoom", 0.0)
    assert sum(o.answer is not None and "<" not in o.answer for o in answered) >= 0.98 * len(answered)


@pytest.mark.parametrize("name", ["base", "zoom"])
def test_a_policy_comes_with_its_card_and_no_file_above_ten_megabytes(name: Name) -> None:
    assert all(file.stat().st_size <= 10_000_000 for file in (FOLDER / name).iterdir())
    card = (FOLDER / name / "README.md").read_text(encoding="utf-8")
    stated = {
        "base": ("224 × 160", "Aileron", "quarter", "wide"),
        "zoom": ("reinforcement learning", "quarter", "wide"),
    }
    assert all(word in card for word in stated[name])
