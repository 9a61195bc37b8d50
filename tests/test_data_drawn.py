"""Pages with sections as examples: sources in turn, a value with its place, seeds that never meet."""

from __future__ import annotations

import io
from collections import Counter

import pytest
from PIL import Image

from vtagent.regions import Region
from vtagent.training.data import DRAWN, SectionPages, mixed, open_examples, section_pages
from vtagent.training.data.drawn import ABSENT_SOURCE, SECTION_SOURCES
from vtagent.training.documents import ABSENT, CELLS, PAGE


def test_sources_take_turns_and_each_question_is_answered_where_its_box_stands() -> None:
    examples = open_examples("pages", count=12, seed=4)
    assert [example.source for example in examples] == list(SECTION_SOURCES) * 3
    assert list(examples.sources) == [example.source for example in examples]
    for example in examples:
        assert Image.open(io.BytesIO(example.image)).size == PAGE
        if example.source == ABSENT_SOURCE:
            assert (example.answers, example.value_box) == ((ABSENT,), None)
        else:
            box = example.value_box
            assert box is not None
            assert sum(Region(*cell).contains(box) for cell in CELLS) >= 1  # a region of the layout holds it
            assert example.answer != ABSENT


@pytest.mark.parametrize("name", DRAWN)
def test_a_place_has_one_page_and_no_page_of_training_is_in_an_evaluation(name: str) -> None:
    drawn = DRAWN[name]
    practice, fresh = drawn.practice(4, 0), list(drawn.fresh(2, 0))
    assert [example.image for example in practice] == [drawn.practice(8, 0)[place].image for place in range(4)]
    assert not {example.image for example in practice} & {example.image for example in fresh}
    assert not {example.image for example in practice} & {example.image for example in drawn.practice(4, 1)}
    assert Image.open(io.BytesIO(fresh[0].image)).size == drawn.size


def test_an_evaluation_has_as_many_pages_of_each_source() -> None:
    assert Counter(example.source for example in section_pages(2, seed=3)) == dict.fromkeys(SECTION_SOURCES, 2)


def test_a_mix_of_enough_pages_shows_none_twice() -> None:
    prompts = 45
    pages = SectionPages(prompts * DRAWN["pages"].spare)
    examples = mixed(pages, ["large print=4", "medium print=2", "small print=2", "absent=1"])
    shown = [examples.place(index) for index in range(prompts)]
    assert len(set(shown)) == prompts
    assert Counter(source for source, _ in shown)["large print"] == 20
