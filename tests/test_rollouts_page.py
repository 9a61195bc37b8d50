"""The page of a rollout log: complete, self-contained, and deaf to whatever the log says. Without a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.logged_runs import example, logged, run
from tests.scripted_chat import ANSWER, ZOOM
from vtagent.training import rollouts
from vtagent.training.rl.log import RolloutLog, read_log
from vtagent.training.rollouts import build_page

HOSTILE = "</script><script>document.title = 'owned'</script><!-- \" ' & <img src=x onerror=alert(1)> {{data}}"


def page_of(folder: Path, **options: Any) -> str:
    return build_page(folder, read_log(folder), **{"title": "t", "max_bytes": 10**9, **options})


def data_in(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("log")
    log = RolloutLog(folder)
    for step in (0, 5, 10, 15):
        log.write(
            step,
            [
                logged(run(example(step), ANSWER), group=0),
                logged(run(example(step), ZOOM, ANSWER), right=False, group=0),
                logged(run(example(step + 1), ANSWER), group=1),
            ],
        )
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "log")


def test_every_rollout_is_in_and_every_picture_once(folder: Path) -> None:
    page = page_of(folder)
    data = data_in(page)
    assert len(data["rollouts"]) == 12
    assert len(data["images"]) == 12  # two low views and one full page a step
    for file in (folder / "views").iterdir():
        assert page.count(base64.b64encode(file.read_bytes()).decode()) == 1


def test_token_ids_stay_in_the_log(folder: Path) -> None:
    assert data_in(page_of(folder))["rollouts"][0]["turns"] == [{"tokens": 2, "logprob": -0.5, "finish_reason": "stop"}]


def test_the_page_needs_nothing_else(folder: Path) -> None:
    page = re.sub(r'<script type="application/json".*?</script>', "", page_of(folder), flags=re.DOTALL)
    assert not re.search(r"""\b(src|href|action)\s*=\s*["']?\w""", page)
    assert not re.findall(r"https?://(?!www\.w3\.org/)", page)
    assert "@import" not in page
    assert "innerHTML" not in page
    assert "eval(" not in page


def test_no_word_of_the_log_can_end_its_block_or_begin_another(tmp_path: Path) -> None:
    rollout = run(example(), f"<think>{HOSTILE}</think><answer>{HOSTILE}</answer>")
    asked = replace(rollout.example, question=HOSTILE, answers=(HOSTILE,), source=HOSTILE, id=HOSTILE)
    RolloutLog(tmp_path).write(0, [logged(replace(rollout, example=asked, answer=HOSTILE, error=None))])
    page = page_of(tmp_path, title=HOSTILE)
    assert len(re.findall(r"<script\b", page, re.IGNORECASE)) == 2
    assert len(re.findall(r"</script", page, re.IGNORECASE)) == 2
    assert "<img" not in page
    assert data_in(page)["rollouts"][0]["question"] == HOSTILE


def test_the_policy_lets_only_the_page_s_own_script_and_style_run(folder: Path) -> None:
    page = page_of(folder)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    for kind in ("script", "style"):
        (text,) = re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy


def test_a_large_log_is_thinned_by_whole_groups_and_says_so(folder: Path) -> None:
    whole = len(page_of(folder))
    page = page_of(folder, max_bytes=whole // 3)
    data = data_in(page)
    assert len(page) < 2 * whole / 3
    assert "of 8 groups" in data["note"]
    steps = [rollout["step"] for rollout in data["rollouts"]]
    assert min(steps) == 0
    assert max(steps) >= 10
    assert len(data_in(page_of(folder, max_bytes=1))["rollouts"]) == 2  # one group at least
    assert data_in(page_of(folder))["note"] == ""


def test_the_log_cannot_name_a_file_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    RolloutLog(tmp_path / "log").write(0, [logged(run(example(), ANSWER))])
    path = tmp_path / "log" / "step-000000.jsonl"
    line = json.loads(path.read_text())
    for name in ("../secret.png", "/etc/passwd", "views/../../secret.png", 7):
        line["views"][0]["file"] = name
        path.write_text(json.dumps(line) + "\n")
        data = data_in(page_of(tmp_path / "log"))
        assert data["images"] == {}
        assert data["rollouts"][0]["views"][0]["file"] is None


def test_a_picture_that_was_deleted_is_only_missing(folder: Path) -> None:
    next((folder / "views").iterdir()).unlink()
    assert len(data_in(page_of(folder))["images"]) == 11


def test_the_command_finds_the_log_of_a_run_and_takes_steps(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    run_folder = tmp_path_factory.mktemp("run")
    (run_folder / "rollouts").symlink_to(folder)
    rollouts.main([str(run_folder), "--steps", "5-10"])
    page = (folder / "rollouts.html").read_text()
    assert {rollout["step"] for rollout in data_in(page)["rollouts"]} == {5, 10}
    assert str(run_folder / "rollouts" / "rollouts.html") in capsys.readouterr().out
    rollouts.main(
        [str(folder), "--title", "mine & yours", "--out", str(tmp_path_factory.mktemp("o") / "new" / "p.html")]
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nowhere"], "no rollouts"),
        (["{folder}", "--steps", "ten"], "--steps takes"),
        (["{folder}", "--steps", "99"], "no rollouts"),
    ],
)
def test_a_wrong_argument_is_one_line(
    folder: Path, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        rollouts.main([argument.format(folder=folder) for argument in arguments])
    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1
