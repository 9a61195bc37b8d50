"""python -m vtagent.training.starts: the share that zooms is the one asked for, and all else is as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoModelForImageTextToText

from tests.grpo_runs import KNOWN_WARNINGS
from vtagent.models.families import checkpoint_path
from vtagent.training import starts
from vtagent.training.data import open_examples

pytestmark = [pytest.mark.filterwarnings(warning) for warning in KNOWN_WARNINGS]


def test_a_start_zooms_as_often_as_asked_and_one_row_alone_is_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    starts.main(["--model", "base", "--share", "0.8", "--pages", "12", "--out", str(tmp_path / "start")])
    assert "zooms with probability 0.8" in capsys.readouterr().err
    said = json.loads((tmp_path / "start" / starts.SHARE).read_text())
    assert (said["of"], said["asked"]) == ("base", 0.8)
    others = list(open_examples("rendered-medium", count=12, seed=7))  # not those that it was moved on
    assert starts.share_of("base", others) == pytest.approx(0.5, abs=0.1)
    assert starts.share_of(str(tmp_path / "start"), others) == pytest.approx(0.8, abs=0.05)
    before, after = (
        AutoModelForImageTextToText.from_pretrained(path, dtype="float32").state_dict()
        for path in (checkpoint_path("base"), tmp_path / "start")
    )
    changed = {name for name in before if not before[name].equal(after[name])}
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in changed} <= {"embed_tokens", "lm_head"}
    rows = {tuple((before[name] != after[name]).any(1).nonzero()[:, 0].tolist()) for name in changed}
    assert len(rows) == 1
    assert len(rows.pop()) == 1


@pytest.mark.parametrize("share", ["0", "1", "1.5", "nan"])
def test_a_share_that_cannot_be_is_one_line(share: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        starts.main(["--share", share, "--pages", "1", "--out", str(tmp_path / "start")])
    assert caught.value.code == 1
    assert "a start zooms with a probability between 0 and 1" in capsys.readouterr().err
    assert not (tmp_path / "start").exists()
