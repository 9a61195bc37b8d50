"""Evaluation: what it asks in each mode, what it writes, how it goes on, and what it refuses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import UnusedEngine, scripted_vlm
from tests.scripted_chat import ANSWER, ZOOM, ScriptedChat
from tests.test_measure_summaries import ZOOMED
from vtagent.errors import DataError
from vtagent.images import MemoryImageStore
from vtagent.models.chat import ChatVLM
from vtagent.regions import Region
from vtagent.training import evaluate
from vtagent.training.data import Example, rendered
from vtagent.training.measure.journal import SAMPLES, Journal, digest_of_examples, digest_of_weights, folder_name
from vtagent.training.measure.modes import MODES, biased, in_order, mode_named
from vtagent.training.pretraining.policy import build_model, build_tokenizer, save_policy
from vtagent.visual_tokens import VisionSpec

EXAMPLES = list(rendered(1, seed=5))
SETTINGS = {"model": "m", "examples": "e"}


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("untrained")
    tokenizer = build_tokenizer()
    save_policy(build_model(tokenizer), tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def base() -> ChatVLM:
    return ChatVLM.from_pretrained("base", max_tokens=64)


class Chat(ScriptedChat):
    """A scripted model with all that `evaluate` looks at."""

    engine: Any = UnusedEngine()
    image_store: Any = None
    images_first: bool = True
    vision: VisionSpec = VisionSpec(patch_size=8, merge_size=2, min_pixels=256, max_pixels=65536)


def scripted(*lines: Any) -> Chat:
    return Chat(lines=list(lines), image_store=MemoryImageStore(), profile={"image_tool_message": True})


def ask(model: Any, examples: Sequence[Example], *modes: str, **options: Any) -> list[evaluate.Outcome]:
    return asyncio.run(evaluate.evaluate(model, examples, modes, **options))


# ------------------------------------------------------------------------------------------------ modes


def test_full_and_quarter_offer_no_tool_and_cost_what_they_say(base: ChatVLM) -> None:
    outcomes = ask(base, EXAMPLES, "full", "quarter")
    assert {(o.mode, o.visual_tokens, o.kept_visual_tokens, o.zooms) for o in outcomes} == {
        ("full", 140, 140, 0),
        ("quarter", 35, 35, 0),
    }


def test_forced_modes_take_the_decision_away_and_nothing_else(base: ChatVLM) -> None:
    many = list(rendered(6, seed=5))
    zoomed = ask(base, many, "forced-zoom")
    assert {(o.zooms, o.visual_tokens, o.kept_visual_tokens) for o in zoomed} == {(1, 175, 140)}
    assert sum(bool(o.right) for o in zoomed) >= 9  # the forced call leaves the policy able to read
    direct = ask(base, many, "forced-direct")
    assert {(o.zooms, o.visual_tokens) for o in direct} == {(0, 35)}
    assert sum(bool(o.right) for o in direct if o.source == "large print") >= 4


def test_forced_direct_is_shown_the_tool_as_zoom_is() -> None:
    shown = {}
    for mode in ("zoom", "forced-direct", "quarter"):
        model = scripted_vlm([ANSWER])
        ask(model, EXAMPLES[:1], mode)
        (request,) = model.engine.requests
        shown[mode] = request.token_ids
    assert shown["zoom"] == shown["forced-direct"] != shown["quarter"]


@pytest.mark.parametrize("images_first", [True, False])
def test_the_question_stands_after_the_image_or_before_it(images_first: bool) -> None:
    model = scripted_vlm([ANSWER, ANSWER], images_first=images_first)
    ask(model, EXAMPLES[:1], "quarter", "forced-direct")
    for prompt in model.engine.prompts:
        assert (prompt.index("<|vision_start|>") < prompt.index(EXAMPLES[0].question)) is images_first


def test_a_first_look_and_a_number_of_views_are_those_of_the_modes_that_offer_the_tool() -> None:
    region = ZOOM.replace("{}", '{"region": [0, 0, 500, 500]}')
    (zoomed,) = ask(scripted(region, ZOOM, ANSWER), EXAMPLES[:1], "zoom", scale=0.75, max_zooms=2)
    assert (zoomed.zooms, zoomed.stop) == (2, "max_zooms")
    assert 140 + 35 < zoomed.visual_tokens - 70 < 140 + 2 * 35  # a look at 9/16 of the page, a quarter of it, all of it
    assert [MODES[mode].adapted(0.75, 2) for mode in ("full", "quarter")] == [MODES["full"], MODES["quarter"]]


def test_a_bias_moves_the_share_that_zooms(base: ChatVLM) -> None:
    many = list(rendered(4, seed=5))
    shares = [sum(o.zooms for o in ask(base, many, biased(bias))) for bias in (-6, 6)]
    assert shares == [0, 8]


def test_modes_have_names_in_a_fixed_order() -> None:
    assert biased(0) == "zoom"
    assert mode_named(biased(-2.5)).zoom_bias == -2.5
    assert in_order(["zoom bias +2", "zoom", "zoom bias -10", "full"]) == [
        "full",
        "zoom",
        "zoom bias -10",
        "zoom bias +2",
    ]
    with pytest.raises(ValueError, match="no mode 'zom'"):
        mode_named("zom")


# ------------------------------------------------------------------------------------------------ running


def test_a_run_that_raises_is_an_outcome_and_the_others_go_on() -> None:
    model = scripted(RuntimeError("out of\nmemory"), ANSWER)
    first, second = ask(model, EXAMPLES, "quarter", concurrency=1)
    assert (first.right, first.error, first.answer) == (False, "RuntimeError: out of memory", None)
    assert (second.error, second.answer) == (None, "48.10")


def test_a_run_that_takes_too_long_is_given_up() -> None:
    model = scripted(lambda messages, options: __import__("time").sleep(1) or ANSWER)
    (outcome,) = ask(model, EXAMPLES[:1], "quarter", timeout=0.05)
    assert outcome.error == "TimeoutError: no answer within 0.05 seconds"


def test_a_grader_s_word_is_final_even_that_it_cannot_tell() -> None:
    class Undecided:
        async def grade(self, question: str, answers: Sequence[str], prediction: str | None) -> bool | None:
            return None

    (outcome,) = ask(scripted(ANSWER), EXAMPLES[:1], "quarter", grader=Undecided())
    assert (outcome.right, outcome.error) == (None, None)


def test_a_grader_that_raises_leaves_its_answer_ungraded() -> None:
    class Down:
        async def grade(self, question: str, answers: Sequence[str], prediction: str | None) -> bool | None:
            raise ConnectionError("no judge there")

    (outcome,) = ask(scripted(ANSWER), EXAMPLES[:1], "quarter", grader=Down())
    assert (outcome.answer, outcome.right, outcome.error) == ("48.10", None, None)


def test_an_outcome_tells_where_its_zooms_looked() -> None:
    region = ZOOM.replace("{}", '{"region": [0, 0, 500, 500]}')
    placed = [replace(EXAMPLES[0], value_box=box) for box in (Region(0, 0, 500, 100), Region(0, 0, 501, 100), None)]
    outcomes = ask(scripted(*[region, ANSWER] * 3), placed, "zoom", concurrency=1)
    assert [(o.zooms, o.regions, o.area, o.holding) for o in outcomes] == [
        (1, 1, 0.25, 1),
        (1, 1, 0.25, 0),
        (1, 1, 0.25, None),
    ]


def test_an_outcome_tells_who_abstained_and_who_should_have() -> None:
    said = ANSWER.replace("48.10", "Not on the page.")
    questions = [replace(EXAMPLES[0], answers=("not on the page",)), EXAMPLES[0]]
    outcomes = ask(scripted(said, said, ANSWER, ANSWER), [*questions, *questions], "quarter", concurrency=1)
    assert [(o.unanswerable, o.abstained, o.right) for o in outcomes] == [
        (True, True, True),
        (False, True, False),
        (True, False, False),
        (False, False, EXAMPLES[0].answer == "48.10"),
    ]


def test_an_outcome_tells_what_the_run_cost_and_what_ended_it() -> None:
    (outcome,) = ask(scripted(ZOOM, ANSWER), EXAMPLES[:1], "zoom")
    assert (outcome.zooms, outcome.visual_tokens, outcome.full_visual_tokens) == (1, 175, 140)
    assert (outcome.stop, outcome.gold, outcome.id) == ("max_zooms", EXAMPLES[0].answer, EXAMPLES[0].id)
    assert 0 < outcome.seconds <= outcome.ended


# ------------------------------------------------------------------------------------------------ going on


def test_what_a_journal_knows_is_not_asked_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path, SETTINGS)
    first = ask(scripted(ANSWER), EXAMPLES[:1], "quarter", journal=journal)
    model = scripted(ZOOM, ANSWER)
    journal = Journal(tmp_path, SETTINGS)
    outcomes = ask(model, EXAMPLES, "quarter", "zoom", journal=journal)
    assert outcomes[0] == first[0]
    assert [(o.mode, o.number, o.session) for o in outcomes[1:]] == [("quarter", 1, 1), ("zoom", 0, 1), ("zoom", 1, 1)]
    assert len(model.seen) == 4  # three questions; the first of them calls, and is asked for its answer
    assert len((tmp_path / SAMPLES).read_text().splitlines()) == 4


def test_a_torn_last_line_is_asked_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path, SETTINGS)
    for number in range(3):
        journal.add(replace(ZOOMED, number=number))
    data = (tmp_path / SAMPLES).read_bytes()
    for cut in (1, 20, len(data.splitlines(keepends=True)[-1])):
        (tmp_path / SAMPLES).write_bytes(data[:-cut])
        journal = Journal(tmp_path, SETTINGS)
        assert [journal.get("zoom", n) is not None for n in range(3)] == [True, True, False]
        journal.add(replace(ZOOMED, number=2))
        assert (tmp_path / SAMPLES).read_bytes() == data


@pytest.mark.parametrize("bad", [{"right": None}, {"right": False, "error": "RuntimeError: no"}])
def test_what_failed_or_could_not_be_graded_is_asked_again(tmp_path: Path, bad: dict[str, Any]) -> None:
    journal = Journal(tmp_path, SETTINGS)
    journal.add(replace(ZOOMED, **bad))
    journal = Journal(tmp_path, SETTINGS)
    assert journal.get("zoom", 0) is None
    journal.add(ZOOMED)
    journal = Journal(tmp_path, SETTINGS)
    assert journal.outcomes == [ZOOMED]


def test_a_folder_of_other_settings_is_refused_in_one_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path, SETTINGS)
    journal.add(ZOOMED)
    with pytest.raises(DataError, match=r"another evaluation \(model: 'm' there, 'n' here\)"):
        Journal(tmp_path, {**SETTINGS, "model": "n"})
    (tmp_path / "settings.json").unlink()
    with pytest.raises(DataError, match="not known what it measured"):
        Journal(tmp_path, SETTINGS)


def test_lines_that_are_not_ours_are_named(tmp_path: Path) -> None:
    Journal(tmp_path, SETTINGS)
    (tmp_path / SAMPLES).write_text(json.dumps(asdict(ZOOMED)) + '\n{"mode": "zoom"}\n')
    with pytest.raises(DataError, match="line 2: not an outcome"):
        Journal(tmp_path, SETTINGS)


def test_digests_tell_weights_and_questions_apart(untrained: Path, tmp_path: Path) -> None:
    assert digest_of_weights("base") == digest_of_weights("base") != digest_of_weights("zoom")
    assert digest_of_weights("some/hub-id") == "some/hub-id"
    before = digest_of_weights(str(untrained))
    config = untrained / "config.json"
    config.write_text(config.read_text() + " ")
    assert digest_of_weights(str(untrained)) != before
    assert digest_of_examples(EXAMPLES) != digest_of_examples([EXAMPLES[0], replace(EXAMPLES[1], image=b"other")])
    assert folder_name({"model": "/runs/a b/../é", "seed": 1}) != folder_name({"model": "/runs/a b/../é", "seed": 2})
    assert "/" not in folder_name({"model": "/runs/a b/../é"})


# ------------------------------------------------------------------------------------------------ the command


def test_the_command_asks_every_question_in_every_mode(
    untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--model", str(untrained), "--documents", "2", "--max-tokens", "12", "--out", str(tmp_path)]
    evaluate.main([*command, "--mix", "large=2", "small=1"])
    samples = [json.loads(line) for line in (tmp_path / SAMPLES).read_text().splitlines()]
    assert len(samples) == 2 * 2 * 3
    assert {s["visual_tokens"] for s in samples if s["mode"] == "full"} == {140}
    assert {s["visual_tokens"] for s in samples if s["mode"] == "quarter"} == {35}
    assert all(s["zooms"] == 0 for s in samples if s["mode"] != "zoom")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [row["questions"] for row in summary["rows"]] == [2, 2, 4] * 3
    assert summary["mix"] == {"large": 2, "small": 1}
    assert list(summary["wall seconds"]) == ["full", "quarter", "zoom"]
    assert (tmp_path / "accuracy.png").exists()
    printed = capsys.readouterr().out
    assert "| quarter | small print | 2 |" in printed
    assert "Overall counts large 2, small 1." in printed

    evaluate.main([*command, "--modes", "quarter", "--zoom-bias-sweep", "-2", "0", "2"])  # all but two modes are known
    assert len((tmp_path / SAMPLES).read_text().splitlines()) == 4 * 5
    assert (tmp_path / "zoom_bias.png").exists()
    assert "8 of 16 questions were done before" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--mix", "large"], "--mix takes SOURCE=WEIGHT, such as large=2, not 'large'"),
        (["--mix", "large=two"], "not 'large=two'"),
        (["--mix", "green=1"], "'green', which is 0 of the sources"),
        (["--documents", "0"], "at least one"),
        (["--scale", "0"], "--scale must be above 0 and at most 1"),
        (["--model", "nowhere"], "no model at"),
        (["--grader", "guess"], "name steps out of"),
        (["--data", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--history", "nowhere"], "nowhere"),
    ],
)
def test_a_wrong_argument_is_one_line(
    tmp_path: Path, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        evaluate.main(["--documents", "1", "--out", str(tmp_path), *arguments])
    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1


def test_where_every_run_fails_the_command_says_so(
    untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ChatVLM, "_submit", lambda *_: 1 / 0)
    with pytest.raises(SystemExit) as ended:
        evaluate.main(["--model", str(untrained), "--documents", "1", "--modes", "zoom", "--out", str(tmp_path)])
    assert ended.value.code == 1
    assert "every run failed, the first with ZeroDivisionError" in capsys.readouterr().err
    assert "| failed |" in (tmp_path / "table.md").read_text()


# ------------------------------------------------------------------------------------------------ its data


def test_fresh_documents_repeat_with_their_seed_and_are_half_large_half_small() -> None:
    first, again, other = (list(rendered(3, seed=seed)) for seed in (5, 5, 6))
    assert first == again
    assert first != other
    assert [example.source for example in first] == ["large print"] * 3 + ["small print"] * 3
    assert all(example.image.startswith(b"\x89PNG") for example in first)
