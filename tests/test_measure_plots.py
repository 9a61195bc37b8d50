"""Plots and curves: a PNG file where there is something to draw, no file where not, and histories read as they are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests.test_measure_summaries import DIRECT, ZOOMED
from vtagent.errors import DataError
from vtagent.training.measure.curves import by_source, curve, plot_learning, read_history
from vtagent.training.measure.plots import plot_accuracy, plot_sweep
from vtagent.training.measure.summaries import summarize

LOG = [
    {"loss": 0.1, "zoom/all": 0.5, "zoom/large print": 0.5, "zoom/small print": 0.5, "step": 1},
    {"zoom/all": 0.4, "zoom/large print": 0.25, "zoom/small print": 0.75, "accuracy/small print": 0.9, "step": 2},
    {"train_runtime": 3.0, "step": 2},
]


def is_picture(path: Path) -> bool:
    with Image.open(path) as image:
        colours = image.convert("RGB").getcolors(maxcolors=2**24)
        return image.format == "PNG" and colours is not None and len(colours) > 10


def test_accuracy_is_drawn_with_failed_modes_left_out(tmp_path: Path) -> None:
    failed = replace(ZOOMED, mode="full", right=False, error="x", visual_tokens=0, full_visual_tokens=0)
    plot_accuracy(summarize([ZOOMED, DIRECT, failed]), tmp_path / "new" / "accuracy.png")
    assert is_picture(tmp_path / "new" / "accuracy.png")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["accuracy.png"]


def test_a_sweep_needs_more_than_one_bias(tmp_path: Path) -> None:
    swept = [ZOOMED, replace(ZOOMED, mode="zoom bias -4"), replace(ZOOMED, mode="zoom bias +4")]
    assert not plot_sweep(summarize(swept[:1]), tmp_path / "sweep.png")
    assert not (tmp_path / "sweep.png").exists()
    assert plot_sweep(summarize(swept), tmp_path / "sweep.png")
    assert is_picture(tmp_path / "sweep.png")


def test_curves_of_a_metric_are_told_apart_by_source() -> None:
    found = by_source(LOG, "zoom")
    assert list(found) == ["large print", "small print"]
    assert (found["small print"].x, found["small print"].y) == ([1, 2], [0.5, 0.75])
    assert curve(LOG, "zoom/all") is not None
    assert curve(LOG, "never") is None


def test_learning_curves_are_drawn_from_a_run_s_folder(tmp_path: Path) -> None:
    for step in (2, 10):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text(json.dumps({"log_history": LOG[: 1 if step == 2 else 3]}))
    history = read_history(tmp_path)
    assert len(history) == 3  # of the last checkpoint, by number
    assert plot_learning(history, tmp_path / "curves.png")
    assert is_picture(tmp_path / "curves.png")
    assert not plot_learning([{"step": 1.0, "loss": 0.5}], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_a_csv_file_is_a_history_and_words_in_it_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "curve.csv").write_text("step,zoom/small print,note\n1,0.5,start\n2,nan,\n")
    assert read_history(tmp_path / "curve.csv") == [{"step": 1.0, "zoom/small print": 0.5}, {"step": 2.0}]


@pytest.mark.parametrize("text", ["", "[]", '{"log_history": 3}', "{}", '{"log_history": [{"loss": 1}]}'])
def test_what_is_no_history_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "trainer_state.json").write_text(text)
    with pytest.raises(DataError, match="trainer_state"):
        read_history(tmp_path)


def test_a_folder_without_a_history_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_history(tmp_path)
