"""Graders: what each rule takes for right, what it leaves to others, and what a cascade makes of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.scripted_chat import ScriptedChat
from vtagent.errors import ModelError, VtagentError
from vtagent.training.rewards import anls, build_grader, chat_model, exact, mathematics, numeric
from vtagent.training.rewards.grading import RULES
from vtagent.training.rewards.mathematics import Mathematics, expression
from vtagent.training.rewards.rules import (
    close,
    close_as_published,
    must_be_met,
    normalise,
    number,
    numeric_as_published,
    option,
    unboxed,
)

texts = st.text(max_size=30)


async def grade(steps: str, answers: Sequence[str], prediction: str | None) -> bool | None:
    return await build_grader(steps).grade("?", answers, prediction)


@pytest.mark.parametrize(
    ("gold", "prediction"),
    [
        ("48.10", "48.10"),
        ("Amount due", "  amount   DUE. "),
        ("North", "“North”"),
        ("A12", "Ａ１２"),
        ("no", "NO"),
        ("B", r"\boxed{B}"),
        ("straße", "STRASSE"),
    ],
)
def test_spelling_that_does_not_matter_is_exactly_right(gold: str, prediction: str) -> None:
    assert exact(["other", gold], prediction) is True


@pytest.mark.parametrize("prediction", ["48.1", "48.10 or 48.20", "", "48.10 48.10", "The total is 48.10"])
def test_a_text_that_says_more_or_less_is_left_to_others(prediction: str) -> None:
    assert exact(["48.10"], prediction) is None


def test_a_prediction_of_signs_alone_equals_nothing() -> None:
    assert exact(["..."], "") is None
    assert exact(["'"], '"') is None
    assert exact(["..."], "...") is True


@pytest.mark.parametrize(
    ("gold", "prediction", "right"),
    [
        ("100", "105", True),
        ("100", "105.1", False),
        ("100", "95", True),
        ("-100", "-104", True),
        ("-100", "100", False),
        ("0", "0.0", True),
        ("0", "0.001", False),
        ("1,234", "1234", True),
        ("$1,234.50", "1234.5", True),
        ("45%", "45", True),
        ("45%", "0.45", True),
        ("0.45", "45 %", True),
        ("45%", "4.5", False),
        ("\N{MINUS SIGN}3", "-3", True),
        ("Blue", "blue", True),
    ],
)
def test_numbers_may_be_off_by_a_twentieth(gold: str, prediction: str, right: bool) -> None:
    assert numeric([gold], prediction) is right


@pytest.mark.parametrize(
    ("gold", "near", "same"),
    [
        ("1984", "1990", "1984."),
        ("$48.10", "$48.20", "48.1"),
        ("2,100 €", "2,110 €", "€2100"),
        ("USD 1,000,000", "USD 1,000,001", "usd 1,000,000"),
        ("0417", "0418", "0417"),
        ("4150017", "4150018", "4150017"),
    ],
)
def test_years_money_and_numbers_that_identify_must_be_met(gold: str, near: str, same: str) -> None:
    assert must_be_met(gold)
    assert numeric([gold], near) is not True
    assert numeric([gold], same) is True
    assert numeric_as_published([gold], near) in (True, None)


@pytest.mark.parametrize(
    ("gold", "near"),
    [
        ("3 May 2031", "8 May 2031"),
        ("May 3, 2031", "May 8, 2031"),
        ("2031-05-03", "2031-05-08"),
        ("10:45:30 am", "10:46:30 am"),
        ("INV-2031-00017", "INV-2031-00018"),
        ("555-0100-22", "555-0101-22"),
    ],
)
def test_dates_and_identifiers_that_are_almost_right_are_not_close(gold: str, near: str) -> None:
    assert close([gold], near) is None
    assert close([gold], gold) is True
    assert len(gold) < 10 or close_as_published([gold], near) is True


@pytest.mark.parametrize("gold", ["48.10", "17 %", "1,984", "a red bus", "12k", "Sprocket 7", "May be", "3.5 kg"])
def test_what_may_be_near_is_left_to_the_tolerance(gold: str) -> None:
    assert not must_be_met(gold)


@pytest.mark.parametrize("said", ["B", "b", "(B)", "[B]", "B.", "B)", r"\text{B}", "**B**", r"$\mathrm{B}$", "**(B)**"])
def test_an_option_is_its_letter_whatever_stands_around_it(said: str) -> None:
    assert option(["B"], said) is True
    assert option(["(b)"], said) is True
    assert option(["C"], said) is False


@pytest.mark.parametrize("said", [r"\boxed{\text{B}}", "Option B", "answer: (B)", "The answer is"])
def test_an_option_may_be_named_and_a_text_is_none(said: str) -> None:
    assert option(["B"], said) is (None if said == "The answer is" else True)


@pytest.mark.parametrize("said", ["A or B", "A, B", "Because", "K", "", "(B) or (C)"])
def test_several_options_are_no_option(said: str) -> None:
    assert option(["B"], said) is None


@given(texts, texts)
def test_no_rule_raises(gold: str, prediction: str) -> None:
    for rule in RULES.values():
        assert rule([gold], prediction) in (True, False, None)


@pytest.mark.parametrize("prediction", ["100 or 200", "about 100", "100 100", "1e2 and more", "between 90 and 110"])
def test_a_number_inside_a_text_is_not_searched_for(prediction: str) -> None:
    assert numeric(["100"], prediction) is None


def test_any_gold_number_will_do_and_a_gold_text_leaves_the_verdict_open() -> None:
    assert numeric(["7", "100"], "101") is True
    assert numeric(["7", "100"], "50") is False
    assert numeric(["7", "a hundred"], "50") is None


@given(st.floats(-1e9, 1e9).filter(bool))
def test_a_number_is_within_tolerance_of_itself(value: float) -> None:
    text = f"{value:.6f}"
    assert numeric([text], text) is True


@given(texts)
def test_reading_a_number_never_raises(text: str) -> None:
    found = number(text)
    assert found is None or isinstance(found[0], float)


@given(st.text("aB3 .'", max_size=20))
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@pytest.mark.parametrize(
    ("answers", "prediction", "score"),
    [
        (["blue"], "Blue ", 1.0),
        (["abcd"], "abcx", 0.75),
        (["abcd"], "axyx", 0.0),
        (["ab"], "xabx", 0.5),
        (["abcd", "abcx"], "abcx", 1.0),
        (["a"], "", 0.0),
        (["x" * 3000], "x" * 3000, 1.0),
        (["x" * 3000], "y" + "x" * 2999, 0.0),  # too long to be compared letter by letter
    ],
)
def test_anls_is_one_minus_the_share_of_edits(answers: list[str], prediction: str, score: float) -> None:
    assert anls(answers, prediction) == score


@given(texts.filter(str.strip), texts)
def test_anls_is_a_similarity(gold: str, prediction: str) -> None:
    assert 0 <= anls([gold], prediction) <= 1
    assert anls([gold], gold) == 1
    assert anls([gold], prediction) == pytest.approx(anls([prediction], gold))


def test_one_wrong_letter_in_ten_is_close_and_one_wrong_digit_in_five_is_not() -> None:
    assert close(["Sprocket 7"], "Sprocket 1") is True
    assert close(["48.10"], "48.19") is None


def test_a_box_is_taken_off_only_where_it_holds_the_whole_text() -> None:
    assert unboxed(r" \boxed{\frac{1}{2}} ") == r"\frac{1}{2}"
    assert unboxed(r"\boxed{1} or \boxed{2}") == r"\boxed{1} or \boxed{2}"
    assert unboxed(r"I say \boxed{1}") == r"I say \boxed{1}"


@pytest.fixture(scope="module")
def math() -> Mathematics:
    return Mathematics()


@pytest.mark.parametrize(
    ("gold", "prediction"),
    [("1/2", "0.5"), (r"\frac{1}{2}", "$0.5$"), ("x^2+1", r"\boxed{1+x^2}"), (r"2\sqrt{2}", r"\sqrt{8}"), ("5", "x=5")],
)
async def test_one_value_has_many_notations(math: Mathematics, gold: str, prediction: str) -> None:
    assert await math([gold], prediction) is True


@pytest.mark.parametrize(
    ("gold", "prediction"),
    [
        ("5", "4 or 5"),
        ("5", "4, 5"),
        ("5", "1, 2, 3, 4, 5"),
        ("5", r"4 \text{ or } 5"),
        ("5", "4\n5"),
        ("5", "$4$ $5$"),
        ("5", "1=2=5"),
        ("5", "The answer is 5"),
        ("tac", "cat"),
        ("5", "6"),
        ("5", "1" * 201),
        ("5", '"}\n{"gold": "5", "said": "5"}'),
    ],
)
async def test_a_list_a_sentence_or_another_value_is_not_the_value(
    math: Mathematics, gold: str, prediction: str
) -> None:
    assert await math([gold], prediction) is None


async def test_an_expression_that_never_ends_is_given_up_and_the_next_one_is_answered() -> None:
    impatient = Mathematics(seconds=2.0)
    assert await impatient(["1/2"], "0.5") is True
    assert await impatient(["3"], "9^{9^{9^{9}}}") is None
    assert await impatient(["1/2"], "0.5") is True


async def test_a_worker_that_dies_has_said_no(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text("import sys; sys.stdin.readline(); sys.exit(3)")
    monkeypatch.setattr(mathematics, "_WORKER", worker)
    fragile = Mathematics()
    assert await fragile(["1/2"], "0.5") is None
    assert await fragile(["1/2"], "0.5") is None


def test_math_without_math_verify_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(VtagentError, match=r"pip install 'vtagent\[math\]'"):
        build_grader("math")


@given(texts)
def test_what_passes_for_an_expression_has_no_words(text: str) -> None:
    bare = expression(text)
    assert bare is None or ("\n" not in bare and "or" not in bare)


async def test_rules_are_tried_in_order_and_the_first_that_can_tell_has_the_word() -> None:
    grader = build_grader("exact+numeric")
    assert await grader.grade("?", ["48.10"], "48.10") is True
    assert await grader.grade("?", ["48.10"], "48.2") is True
    assert await grader.grade("?", ["48.10"], "60") is False
    assert await grader.grade("?", ["48.10"], "sixty") is False
    assert await grader.grade("?", ["48.10"], None) is False
    assert grader.counts == {"exact": 1, "numeric": 2, "no rule": 1, "none": 1}


async def test_the_judge_is_asked_only_about_the_rest() -> None:
    model = ScriptedChat(lines=["RIGHT"])
    grader = build_grader("exact+numeric+judge", judge_model=model)
    assert await grader.grade("?", ["48.10"], "48.10") is True
    assert await grader.grade("?", ["48.10"], "60") is False
    assert await grader.grade("?", ["48.10"], " ") is False
    assert model.seen == []
    assert await grader.grade("?", ["48.10"], "forty-eight ten") is True
    assert len(model.seen) == 1


@pytest.mark.parametrize("steps", ["exct", "", "judge+exact", "exact+exact", "exact+"])
def test_a_cascade_that_cannot_be_meant_is_refused(steps: str) -> None:
    with pytest.raises(VtagentError, match="name steps out of exact, option, anls, numeric"):
        build_grader(steps, judge_model=ScriptedChat(lines=["RIGHT"]))


def test_a_judge_needs_a_model() -> None:
    with pytest.raises(VtagentError, match="needs a judge"):
        build_grader("exact+judge")


def test_a_judge_is_named_like_the_server_names_it() -> None:
    model = chat_model("Qwen/Qwen3-1.7B", "http://localhost:1/v1")
    assert getattr(model, "model_name", None) == "Qwen/Qwen3-1.7B"


@pytest.mark.parametrize("name", ["no-such-model", "nobody:nothing"])
def test_a_judge_that_cannot_be_made_is_one_line(name: str) -> None:
    with pytest.raises(ModelError, match=f"the judge '{name}'") as caught:
        chat_model(name)
    assert "\n" not in str(caught.value)
