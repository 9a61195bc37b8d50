"""The rollout log: all of a rollout is in it, pictures once, and a crash leaves nothing half written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.logged_runs import example, logged, run
from tests.scripted_chat import ANSWER, ZOOM, zoom_call
from vtagent.errors import DataError
from vtagent.models.engine import EngineImage
from vtagent.training.rl.log import RolloutLog, read_log
from vtagent.training.rl.rollout import Rollout, Turn


@pytest.fixture(scope="module")
def zoomed() -> Rollout:
    return run(example(), zoom_call(region=[0, 0, 500, 500]), ANSWER)


def test_a_line_holds_all_of_a_rollout(tmp_path: Path, zoomed: Rollout) -> None:
    path = RolloutLog(tmp_path).write(10, [logged(zoomed, penalty=0.1, advantage=-0.5, group=3)])
    assert path == tmp_path / "step-000010.jsonl"
    (line,) = read_log(tmp_path)
    assert (line["step"], line["group"], line["id"], line["source"]) == (10, 3, zoomed.example.id, "large print")
    assert (line["question"], line["answers"]) == (zoomed.example.question, [zoomed.example.answer])
    assert (line["answer"], line["zooms"], line["well_formed"], line["stop"]) == ("48.10", 1, True, "max_zooms")
    assert line["reward"] == {"accuracy": 1.0, "format": 0.5, "penalty": 0.1, "total": 1.4}
    assert line["advantage"] == -0.5
    assert line["usage"] == zoomed.usage
    assert line["turns"][0] == {
        "prompt_ids": [1, 2, 3],
        "completion_ids": [4, 5],
        "logprobs": [-0.25, -0.75],
        "finish_reason": "stop",
    }


def test_messages_keep_their_order_their_calls_and_references_alone(tmp_path: Path, zoomed: Rollout) -> None:
    RolloutLog(tmp_path).write(0, [logged(zoomed)])
    (line,) = read_log(tmp_path)
    roles = [message["role"] for message in line["messages"]]
    assert roles == ["human", "ai", "tool", "ai"]
    asked, called, shown, _ = line["messages"]
    assert asked["content"][0]["url"].startswith("vtimg://sha256/")
    assert called["tool_calls"] == [{"name": "zoom_image", "args": {"region": [0, 0, 500, 500]}}]
    assert (shown["name"], shown["status"]) == ("zoom_image", "success")
    assert "base64" not in json.dumps(line)


def test_a_view_is_one_file_however_often_it_was_seen(tmp_path: Path, zoomed: Rollout) -> None:
    log = RolloutLog(tmp_path)
    log.write(0, [logged(zoomed), logged(run(example(), ANSWER))])
    log.write(1, [logged(run(example(), ZOOM, ANSWER))])
    files = sorted(path.name for path in (tmp_path / "views").iterdir())
    assert len(files) == 3  # the low view, its corner, the whole page
    for line in read_log(tmp_path):
        for view in line["views"]:
            with Image.open(tmp_path / view["file"]) as image:
                assert image.size == (view["width"], view["height"])


def test_only_the_newest_steps_are_kept_with_the_views_that_they_show(tmp_path: Path, zoomed: Rollout) -> None:
    other = RolloutLog(tmp_path, rank=1)
    other.write(0, [logged(zoomed)])
    log = RolloutLog(tmp_path, keep=2)
    corner_and_whole = [logged(zoomed)], [logged(run(example(), ZOOM, ANSWER))]
    log.write(1, corner_and_whole[1])
    for step in (2, 3, 4):
        log.write(step, [logged(run(example(), ANSWER))])
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == [
        "step-000000.1.jsonl",
        "step-000003.jsonl",
        "step-000004.jsonl",
    ]
    shown = {view["file"] for line in read_log(tmp_path) for view in line["views"]}
    assert {f"views/{path.name}" for path in (tmp_path / "views").iterdir()} == shown
    assert len(shown) == 2  # the low view, and the corner that the other process keeps


def test_what_the_prompt_showed_is_what_is_kept(tmp_path: Path, zoomed: Rollout) -> None:
    shown = Image.new("RGB", (112, 80), (200, 10, 10))
    low = EngineImage(zoomed.views[0]["url"], shown)
    turns = (Turn((1,), (2,), (-0.1,), "stop", (low,)),)
    RolloutLog(tmp_path).write(0, [logged(replace(zoomed, turns=turns))])
    (line,) = read_log(tmp_path)
    with Image.open(tmp_path / line["views"][0]["file"]) as image:
        assert image.getpixel((0, 0)) == (200, 10, 10)


def test_a_photograph_is_kept_small(tmp_path: Path, zoomed: Rollout) -> None:
    photograph = Image.effect_noise((1200, 900), 60).convert("RGB")
    turns = (Turn((1,), (2,), (-0.1,), "stop", (EngineImage(zoomed.views[0]["url"], photograph),)),)
    RolloutLog(tmp_path).write(0, [logged(replace(zoomed, turns=turns))])
    (line,) = read_log(tmp_path)
    assert line["views"][0]["file"].endswith(".jpg")


def test_a_view_of_an_unknown_picture_is_logged_without_a_file(tmp_path: Path, zoomed: Rollout) -> None:
    stranger = replace(zoomed, example=replace(zoomed.example, image=b"another"))
    RolloutLog(tmp_path).write(0, [logged(stranger)])
    (line,) = read_log(tmp_path)
    assert [view["file"] for view in line["views"]] == [None, None]


def test_a_failed_run_is_logged_with_its_reason_and_no_reward(tmp_path: Path) -> None:
    RolloutLog(tmp_path).write(0, [logged(Rollout(example(), error="the graph raised OSError: no"))])
    (line,) = read_log(tmp_path)
    assert (line["error"], line["reward"], line["advantage"]) == ("the graph raised OSError: no", None, None)
    assert (line["views"], line["messages"], line["turns"]) == ([], [], [])


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_json_cannot_say_is_null(tmp_path: Path, zoomed: Rollout, number: float) -> None:
    turns = (Turn((1,), (2,), (number,), "stop"),)
    RolloutLog(tmp_path).write(0, [logged(replace(zoomed, turns=turns), advantage=number)])
    (line,) = read_log(tmp_path)
    assert line["turns"][0]["logprobs"] == [None]
    assert line["advantage"] is None


def test_any_text_survives(tmp_path: Path, zoomed: Rollout) -> None:
    strange = "\u2028</script>\x00\ud800🦉\n"
    RolloutLog(tmp_path).write(0, [logged(replace(zoomed, answer=strange))])
    assert next(read_log(tmp_path))["answer"] == strange


def test_a_step_done_again_replaces_its_file(tmp_path: Path, zoomed: Rollout) -> None:
    log = RolloutLog(tmp_path)
    log.write(3, [logged(zoomed), logged(zoomed)])
    log.write(3, [logged(zoomed)])
    assert len(list(read_log(tmp_path))) == 1


def test_a_crash_in_mid_step_leaves_the_steps_before_and_no_half_one(
    tmp_path: Path, zoomed: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RolloutLog(tmp_path)
    log.write(1, [logged(zoomed)])

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        log.write(2, [logged(zoomed)])
    assert [line["step"] for line in read_log(tmp_path)] == [1]


def test_processes_write_files_of_their_own_and_are_read_together(tmp_path: Path, zoomed: Rollout) -> None:
    for rank in (1, 0, 10, 2):
        RolloutLog(tmp_path, rank=rank).write(5, [logged(zoomed, group=rank)])
    RolloutLog(tmp_path).write(4, [logged(zoomed, group=9)])
    assert [(line["step"], line["group"]) for line in read_log(tmp_path)] == [(4, 9), (5, 0), (5, 1), (5, 2), (5, 10)]
    assert [line["step"] for line in read_log(tmp_path, steps=range(4, 5))] == [4]


def test_a_folder_without_rollouts_and_a_line_that_is_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rollouts"):
        list(read_log(tmp_path))
    (tmp_path / "step-000001.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(DataError, match=r"step-000001.jsonl, line 1: not a logged rollout"):
        list(read_log(tmp_path))
