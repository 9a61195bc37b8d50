"""`vtagent savings`: the figures of the providers' rules, in a table, as JSON and drawn; one line for a bad file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmarks.low_view_cost import KINDS, row
from tests.pdfs import report
from vtagent.cli import run
from vtagent.eyes import FAMILIES, KnownFamily, eyes_of
from vtagent.eyes.assistants import ASSISTANTS, eyes_for
from vtagent.images import ImageRef
from vtagent.savings import Bill, bill_of

DOCUMENTED = (Path(__file__).parent.parent / "docs" / "models.md").read_text(encoding="utf-8")


def image(width: int, height: int) -> ImageRef:
    return ImageRef("ab" * 32, width, height, "image/png")


@pytest.fixture
def screenshot(tmp_path: Path) -> Path:
    path = tmp_path / "screenshot.png"
    Image.new("RGB", (1024, 768), "white").save(path)
    return path


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert run(["savings", *map(str, arguments)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_it_bills_what_the_benchmark_of_low_views_bills(family: KnownFamily) -> None:
    cells = row(family)
    for kind, size in KINDS.items():
        bill = bill_of([image(*size)], family.vision)
        assert cells[kind].startswith(f"{bill.low} / {bill.whole} = {bill.low / bill.whole:.0%}")


def test_the_command_prints_the_column_of_the_documented_table(
    screenshot: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documented = dict(
        re.findall(r"^\| ([^|]+) \| by its .*? \| (\d+ / \d+) = \d+%(?: \(!\))? \| [^|]+\|$", DOCUMENTED, re.M)
    )
    listed = json.loads(said(capsys, screenshot, "--json"))["models"]
    assert {line["rule"]: f"{line['low']} / {line['whole']}" for line in listed} == documented
    assert len(documented) == len(FAMILIES)
    table = said(capsys, screenshot)
    for line in listed:
        assert re.search(rf"^{re.escape(line['rule'])} +{line['whole']:,} +{line['low']:,} ", table, re.MULTILINE)


def test_a_zoom_is_the_middle_half_of_both_sides_at_full_resolution() -> None:
    eyes = eyes_of("qwen3-vl:8b")
    assert bill_of([image(1280, 960)], eyes.vision) == Bill(whole=1200, low=300, zoom=300)


@given(width=st.integers(1, 12_000), height=st.integers(1, 12_000), family=st.sampled_from(FAMILIES))
@settings(max_examples=150)
def test_below_the_break_even_low_views_first_are_cheaper_and_above_it_dearer(
    width: int, height: int, family: KnownFamily
) -> None:
    shorter = max(min(width, height), max(width, height) // family.vision.max_aspect + 1)
    bill = bill_of([image(max(width, height), shorter)], family.vision)
    for zooms, cheaper in ((bill.break_even * 0.99, True), (bill.break_even * 1.01 + 1e-6, False)):
        assert (bill.low + zooms * bill.zoom <= bill.whole) is cheaper or bill.low >= bill.whole


def test_several_images_are_summed_and_each_is_reported(
    screenshot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (800, 4000)).save(tmp_path / "receipt.jpg")
    found = json.loads(said(capsys, screenshot, tmp_path / "receipt.jpg", "--for", "gpt-4o", "--json"))
    assert [(each["width"], each["height"]) for each in found["images"]] == [(1024, 768), (800, 4000)]
    [line] = found["models"]
    assert (line["whole"], line["low"]) == (765 + 765, 85 + 85)
    assert [each["whole"] for each in line["images"]] == [765, 765]


def test_each_page_of_a_document_is_billed_as_an_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "report.pdf").write_bytes(report(3))
    Image.new("RGB", (800, 4000)).save(tmp_path / "receipt.jpg")
    found = json.loads(said(capsys, tmp_path / "report.pdf", tmp_path, "--for", "gpt-4o", "--json"))
    names = [Path(each["file"]).name for each in found["images"]]
    pages = [f"report.pdf#page={n}" for n in (1, 2, 3)]
    assert names[:3] == pages
    assert len(names) == 3 + 1 + 3  # the folder holds both
    [line] = found["models"]
    assert line["whole"] == sum(each["whole"] for each in line["images"])
    assert {(each["width"], each["height"]) for each in found["images"][:3]} == {(1653, 2339)}


@pytest.mark.parametrize(("name", "rule"), [("claude", "Claude, high resolution"), ("gpt", "GPT-5.6 and later")])
def test_an_assistant_is_its_newest_known_model(
    name: str, rule: str, screenshot: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert set(ASSISTANTS) == {"claude", "gpt", "qwen", "gemini"}
    assert all(eyes_for(assistant).known for assistant in ASSISTANTS)
    [line] = json.loads(said(capsys, screenshot, "--for", name, "--json"))["models"]
    assert line["rule"] == rule


def test_the_figure_is_drawn(screenshot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure = tmp_path / "savings.svg"
    said(capsys, screenshot, "--figure", figure)
    drawn = figure.read_text(encoding="utf-8")
    assert "Claude, high resolution" in drawn
    assert drawn.rstrip().endswith("</svg>")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.png"], "no file 'missing.png'"),
        (["notes.png"], "'notes.png': not a complete image"),
        (["screenshot.png", "--for", "llava"], "name claude, gpt, qwen, gemini or a model that `vtagent models` lists"),
        (["screenshot.png", "--figure", "there/is/none.png"], "none.png: No such file or directory"),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(
    arguments: list[str],
    words: str,
    screenshot: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(screenshot.parent)
    Path("notes.png").write_text("a note")
    assert run(["savings", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert words in err


def test_a_figure_of_another_kind_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(["savings", "a.png", "--figure", "a.doc"])
    assert "ends in none of .png, .svg, .pdf" in capsys.readouterr().err
