"""The rendered documents: repeatable, inside their stated domain, every glyph where the renderer says it is."""

from __future__ import annotations

import random

import numpy as np
import pytest

from vtagent.training.pages.documents import (
    HELD_OUT_FONTS,
    PAGE,
    TRAINING_FONTS,
    WIDE_LOOK,
    Look,
    PrintSize,
    em_for_capitals,
    load_font,
    render_document,
)
from vtagent.training.pages.values import LABELS, QUESTIONS, Field, draw_fields

PRINTS: tuple[PrintSize, ...] = ("large", "small")
QUIET = Look(noise=(0.0, 0.0), jpeg=(95, 95), paper=(255, 255), ink=(0, 0))


@pytest.mark.parametrize("print_size", PRINTS)
def test_the_same_seed_draws_the_same_pixels_and_another_seed_does_not(print_size: PrintSize) -> None:
    first, again, other = (render_document(seed, print_size=print_size) for seed in ("a", "a", "b"))
    assert first.image.tobytes() == again.image.tobytes()
    assert first.fields == again.fields
    assert first.image.tobytes() != other.image.tobytes()


def test_the_domain_is_as_wide_as_the_model_card_says() -> None:
    documents = [render_document(i, print_size=PRINTS[i % 2]) for i in range(300)]
    assert {d.font for d in documents} == set(TRAINING_FONTS)
    assert len(TRAINING_FONTS) >= 7
    assert {field.label for d in documents for field in d.fields} == set(LABELS)
    assert len(LABELS) >= 10
    assert {len(d.fields) for d in documents} == {2, 3, 4}
    assert {d.layout for d in documents} == {"card", "form", "receipt"}
    assert max(abs(d.tilt) for d in documents) > 1.8
    assert all(abs(d.tilt) <= 2.0 for d in documents)
    assert all(d.image.size == PAGE and d.image.mode == "RGB" for d in documents)
    assert len(QUESTIONS) >= 3


def test_held_out_fonts_are_never_drawn_in_training() -> None:
    assert not set(HELD_OUT_FONTS) & set(TRAINING_FONTS)
    assert {render_document(i, print_size="small", look=WIDE_LOOK).font for i in range(60)} == set(HELD_OUT_FONTS)


@pytest.mark.parametrize("print_size", PRINTS)
def test_ink_stands_where_glyphs_are_said_to_be(print_size: PrintSize) -> None:
    reach = {"large": 12, "small": 7}[print_size]
    for seed in range(25):
        document = render_document(seed, print_size=print_size, look=QUIET)
        dark = np.asarray(document.image.convert("L")) < 128
        near_a_glyph = np.zeros_like(dark)
        for glyph in document.glyphs:
            x, y = round(glyph.x), round(glyph.y)
            assert 0 <= x < PAGE[0]
            assert 0 <= y < PAGE[1]
            box = np.s_[max(0, y - 2 * reach) : y + 2 * reach, max(0, x - reach) : x + reach + 1]
            assert dark[box].any(), f"seed {seed}: no ink near {glyph}"
            near_a_glyph[box] = True
        assert not (dark & ~near_a_glyph).any(), f"seed {seed}: print where no glyph is said to be"


@pytest.mark.parametrize("font", TRAINING_FONTS + HELD_OUT_FONTS)
def test_large_print_at_half_its_sides_is_as_tall_as_small_print(font: str) -> None:
    def capital(height: float) -> float:
        _, top, _, bottom = load_font(font, em_for_capitals(font, height)).getbbox("H")
        return bottom - top

    assert capital(7.5) == pytest.approx(7.5, abs=1.0)
    assert capital(15.0) == pytest.approx(15.0, abs=1.0)


def test_labels_differ_on_a_page_and_questions_name_theirs() -> None:
    rng = random.Random(0)
    for _ in range(100):
        fields = draw_fields(rng, count=4)
        assert len({field.label for field in fields}) == 4
        assert all(field.label in field.question(rng) for field in fields)
        assert all(field.value.isascii() and field.value == field.value.strip() for field in fields)


def test_fields_that_cannot_fit_are_an_error() -> None:
    with pytest.raises(ValueError, match="do not fit on 64×32 pixels"):
        render_document(0, print_size="large", size=(64, 32), fields=lambda _: (Field("Total", "12,345.67"),))
