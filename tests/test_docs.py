"""Every Python snippet of docs/ runs as it stands, one page after the other, from the repository's examples."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PAGES = {
    "compose.md": ["<answer>$170.71</answer> 1", "Seen: image 1, whole, at 112 × 80", "zoom_image", "\n$170.71\n"],
    "persist.md": ["$170.71\n", "Collected(deleted=()"],
    "train.md": ["4 receipts ('$170.71',)", "trained for 1 step", "$170.71 1"],
}


@pytest.mark.parametrize("page", PAGES)
def test_its_snippets_run(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": page}
    for snippet in snippets:
        exec(compile(snippet, page, "exec"), names)
    printed = capsys.readouterr().out
    for shown in PAGES[page]:
        assert shown in printed


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_its_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (page.parent / target).exists(), target
    for example in re.findall(r"`(examples/[\w.]+)`", text):
        assert (ROOT / example).exists(), example
