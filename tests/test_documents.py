"""The rendered documents: repeatable, inside their stated domain, every glyph where the renderer says it is."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest

from vtagent.training.documents.render import (
    CARD,
    HELD_OUT_FONTS,
    TRAINING_FONTS,
    TRAINING_LOOK,
    WIDE_LOOK,
    Look,
    PrintSize,
    _near_an_end,
    em_for_capitals,
    load_font,
    margins,
    render_document,
    turned,
)
from vtagent.training.documents.values import LABELS, QUESTIONS, Field, draw_fields

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
    assert all(d.image.size == CARD and d.image.mode == "RGB" for d in documents)
    assert len(QUESTIONS) >= 3


def test_held_out_fonts_are_never_drawn_in_training() -> None:
    assert not set(HELD_OUT_FONTS) & set(TRAINING_FONTS)
    assert {render_document(i, print_size="small", look=WIDE_LOOK).font for i in range(60)} == set(HELD_OUT_FONTS)


def test_every_offset_and_tilt_of_the_wide_domain_lies_outside_trainings() -> None:
    across, down = margins(TRAINING_LOOK)
    assert [ours + near for ours, near in zip(margins(WIDE_LOOK), WIDE_LOOK.edge or (), strict=True)] == [across, down]
    for place in range(5, 101):
        near = _near_an_end(place, 5, 100, 4)
        assert 5 <= near <= 9 if place < 52.5 else 96 <= near <= 100
        assert _near_an_end(place, 5, 100, None) == place
    for seed in range(80):
        document = render_document(seed, print_size=PRINTS[seed % 2], look=WIDE_LOOK)
        assert 2.0 <= abs(document.tilt) <= 2.5
        reach = {"large": 10, "small": 6}[document.print_size]  # from a glyph's middle to its side, at the most
        level = [glyph.x for glyph in turned(document.glyphs, -document.tilt, CARD)]
        assert min(level) < across + reach or max(level) > CARD[0] - across - reach


# The bundled weights and every measurement's seed stand on these pages.
PINNED = {
    "large": "ef803f2c643949f0fe553f509f90df88da348c23a288e905adefa867d96eb7bd",
    "small": "6ed8e0eac56b00401f7a0056321a598b1f081d8aa0c5fea8129876a2a2d585f0",
}


@pytest.mark.parametrize("print_size", PRINTS)
def test_the_pages_of_training_stay_what_they_were(print_size: PrintSize) -> None:
    drawn = hashlib.sha256()
    for number in range(40):
        document = render_document(f"pinned/{number}", print_size=print_size)
        drawn.update(document.image.tobytes())
        drawn.update(repr(document.fields).encode())
    assert drawn.hexdigest() == PINNED[print_size]


@pytest.mark.parametrize("print_size", PRINTS)
def test_ink_stands_where_glyphs_are_said_to_be(print_size: PrintSize) -> None:
    reach = {"large": 12, "small": 7}[print_size]
    for seed in range(25):
        document = render_document(seed, print_size=print_size, look=QUIET)
        dark = np.asarray(document.image.convert("L")) < 128
        near_a_glyph = np.zeros_like(dark)
        for glyph in document.glyphs:
            x, y = round(glyph.x), round(glyph.y)
            assert 0 <= x < CARD[0]
            assert 0 <= y < CARD[1]
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
