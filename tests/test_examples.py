"""Every example is short, runs unchanged with the bundled policy, and prints what it promises."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from vtagent import cli

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

SHOWN = {
    "approve": [
        "asked:  The model asks to see the whole image at full resolution.",
        "approve: $170.71 after 1 zooms",
        "edit: $170.71 after 1 zooms",
        "after 0 zooms\nthe model was told: A person refused this zoom: The budget of this month is spent.",
    ],
    "batch": ["large-print.png: $190.72 (gold answer: $190.72), 0 zooms", "small-print.png: $170.71"],
    "middleware": ["<answer>$190.72</answer> (0 zooms, 35 visual tokens", "<answer>$170.71</answer> (1 zooms, 175"],
    "own_graph": ["$190.72</answer> after 1 replies", "$170.71</answer> after 2 replies"],
    "supervisor": ["tool: $170.71\n\nSeen: image 1, whole, at 112 × 80; image 1,", "ai: Approved.", "'kind': 'zoom'"],
    "time_travel": ["then: $170.71 for 175 visual tokens", "for 35 visual tokens"],
}


@pytest.mark.parametrize("name", SHOWN)
def test_it_runs_and_shows(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [name])
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    for shown in SHOWN[name]:
        assert shown in printed


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 60


def test_every_example_is_run_by_a_test() -> None:
    elsewhere = {"compose", "watch", "demo", "served_by_vllm"}  # test_readme.py, below, test_vllm_chat.py
    assert {path.stem for path in EXAMPLES} == set(SHOWN) | elsewhere


@pytest.mark.parametrize(("policy", "code"), [("zoom", 0), ("never", 1)])
def test_the_demo_answers_both_and_zooms_on_small_print_alone_or_fails(
    policy: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    if policy == "never":
        ask = cli.run
        monkeypatch.setattr(cli, "run", lambda arguments: ask([*arguments, "--max-zooms", "0"]))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "examples" / "demo.py"))
    printed = capsys.readouterr().out
    assert ended.value.code == code, printed
    large, small = printed.split("$ vtagent ask ")[1:]
    assert "gold answer: $190.72)" in large
    assert "zoomed" not in large
    assert ("not as it should be" in small) is (policy == "never")
    seen = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")}
    looked = {f"runs/demo/{name}-print/1-look-image1.png" for name in ("large", "small")}
    assert seen == looked | ({"runs/demo/small-print/2-zoom-image1.png"} if policy == "zoom" else set())
    assert all(path in printed for path in seen)
    if policy == "zoom":
        assert small.count("$170.71") == 2
        assert "zoomed" in small
