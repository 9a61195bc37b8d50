"""Files are written whole or not at all, lines are read whole, and a folder belongs to one set of settings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vtagent.errors import DataError
from vtagent.training.durable import claim, cut_to_whole_lines, held, read_whole_lines, replacing, write_whole


def test_a_file_is_replaced_by_text_or_bytes(tmp_path: Path) -> None:
    path = tmp_path / "table.md"
    write_whole(path, "25 %\n")
    write_whole(path, "–\n".encode())
    assert path.read_text(encoding="utf-8") == "–\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_file_before_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    write_whole(path, b"before")

    def interrupted() -> None:
        with replacing(path) as part:
            part.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "lines"),
    [(b"", []), (b"a", []), (b"a\n", [b"a"]), (b"a\nb", [b"a"]), (b"a\r\x85\n\nb\n", [b"a\r\x85", b"", b"b"])],
)
def test_a_line_that_is_not_complete_is_left_out_and_cut_off(text: bytes, lines: list[bytes], tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(text)
    assert read_whole_lines(path) == lines
    cut_to_whole_lines(path)
    assert path.read_bytes() == b"".join(line + b"\n" for line in lines)


def test_a_file_that_is_not_there_has_no_lines(tmp_path: Path) -> None:
    cut_to_whole_lines(tmp_path / "none")
    assert read_whole_lines(tmp_path / "none") == []
    assert not (tmp_path / "none").exists()


def test_a_folder_belongs_to_the_settings_it_was_claimed_with(tmp_path: Path) -> None:
    assert claim(tmp_path, {"seed": 1, "answers": ("a",)}, what="trial") == {"seed": 1, "answers": ["a"]}
    claim(tmp_path, {"answers": ["a"], "seed": 1}, what="trial")
    with pytest.raises(DataError, match=r"holds another trial \(seed: 1 there, 2 here\); name another --out"):
        claim(tmp_path, {"seed": 2, "answers": ["a"]}, what="trial")
    with pytest.raises(DataError, match=r"\(grader: None there, 'exact' here\)"):
        claim(tmp_path, {"seed": 1, "answers": ["a"], "grader": "exact"}, what="trial")
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(DataError, match=r"settings\.json is not JSON"):
        claim(tmp_path, {"seed": 1}, what="trial")


def test_a_lock_is_held_by_one_and_ends_with_it(tmp_path: Path) -> None:
    with held(tmp_path / "lock") as first:
        assert first is not None
        with held(tmp_path / "lock") as second:
            assert second is None
    with held(tmp_path / "lock") as again:
        assert again is not None


def test_a_child_that_inherits_a_lock_holds_it_when_its_parent_is_gone(tmp_path: Path) -> None:
    with held(tmp_path / "lock") as lock:
        assert lock is not None
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock,))
    with held(tmp_path / "lock") as mine:
        assert mine is None
    child.communicate(b"\n")
    with held(tmp_path / "lock") as mine:
        assert mine is not None
