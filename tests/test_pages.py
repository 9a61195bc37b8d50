"""Pages with sections: what is printed stands where it is said to stand, and questions can be answered as they say."""

from __future__ import annotations

import io
import random
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from vtagent.graphs.document_qa.nodes import numbered
from vtagent.images import MemoryImageStore
from vtagent.models.chat import ChatVLM
from vtagent.regions import Region
from vtagent.tools import create_zoom_tool
from vtagent.training.documents import ABSENT, CELLS, PAGE, Page, PageQuestion, cell_pixels, render_page, thumbnail
from vtagent.training.documents.pages import GRIDS, MOST_FIELDS
from vtagent.training.documents.render import PrintSize
from vtagent.training.documents.sections import PAGE_LABELS, SECTIONS, holders
from vtagent.training.pretraining import page_lessons
from vtagent.training.pretraining.lesson_page import half
from vtagent.training.pretraining.packing import TRUNK, PackedSequence
from vtagent.training.pretraining.supervision import tokenizer
from vtagent.views import View, ViewRenderer

SEEDS = st.integers(0, 10**6)


@pytest.fixture(scope="module")
def base() -> ChatVLM:
    return ChatVLM.from_pretrained("base", images_first=False)


@settings(max_examples=40)
@given(seed=SEEDS)
def test_a_page_is_what_the_domain_says(seed: int) -> None:
    page = render_page(seed)
    assert page.image.size == PAGE
    assert 3 <= len(page.sections) <= 5
    assert 6 <= sum(len(section.fields) for section in page.sections) <= MOST_FIELDS
    assert len(set(page.headings)) == len(page.headings)
    for section in page.sections:
        assert {field.label for field in section.fields} <= set(SECTIONS[section.heading])
        left, top, right, bottom = section.cell
        for box in section.boxes:
            assert left <= box[0] < box[2] <= right
            assert top <= box[1] < box[3] <= bottom


@settings(max_examples=15)
@given(seed=SEEDS)
def test_ink_stands_in_the_box_of_a_value(seed: int) -> None:
    page = render_page(seed)
    grey = np.asarray(page.image.convert("L"), np.int64)
    for section in page.sections:
        for box in section.boxes:
            left, top, right, bottom = cell_pixels(box)
            assert grey[top:bottom, left:right].min() < np.median(grey) - 60


def test_each_label_belongs_to_two_kinds_of_sections() -> None:
    assert Counter(label for labels in SECTIONS.values() for label in labels) == dict.fromkeys(PAGE_LABELS, 2)


@settings(max_examples=60)
@given(seed=SEEDS)
def test_question_and_headings_tell_where_to_look(seed: int) -> None:
    page, rng = render_page(seed), random.Random(seed)
    for question in (page.ask(rng, 0, 0), page.ask_absent(rng), page.ask_absent(rng)):
        asked = question.asked
        could = [asked.section] if asked.section else holders(asked.label, page.headings)
        where = [section.cell for section in page.sections if section.heading in could]
        assert where == ([question.cell] if question.cell else [])
        printed = [
            f.value for s in page.sections for f in s.fields if s.cell == question.cell and f.label == asked.label
        ]
        assert printed == ([] if question.answer == ABSENT else [question.answer])


@pytest.mark.parametrize("cell", CELLS)
def test_the_view_of_a_cell_is_what_the_lessons_show_and_costs_what_a_card_costs(base: ChatVLM, cell: Any) -> None:
    page, store = render_page("cells"), MemoryImageStore()
    view = _view(page, store)
    zoomed = View(view.ref, region=Region(*cell))
    pixels = ViewRenderer(store, base.vision).render(zoomed)
    assert np.array_equal(np.asarray(pixels), np.asarray(page.image.crop(cell_pixels(cell))))
    assert pixels.width * pixels.height // 256 in (84, 126)
    small = ViewRenderer(store, base.vision).render(View(view.ref, scale=0.5))
    assert np.array_equal(np.asarray(small), np.asarray(half(page.image)))


def _view(page: Page, store: MemoryImageStore) -> View:
    file = io.BytesIO()
    page.image.save(file, "PNG")
    return View(store.put(file.getvalue()))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("grid", ["four", "six"])
def test_a_row_of_two_turns_is_the_prompt_of_the_graph(base: ChatVLM, grid: str, seed: int) -> None:
    row = page_lessons.look(random.Random(seed), f"ids/{seed}", grid)
    page = render_page(f"ids/{seed}", grid=grid)
    view = _view(page, base.image_store)
    text = str(tokenizer().decode(row.packed.ids))
    question = next(part for part in _users(text) if "?" in part or "Read" in part or "tell" in part)
    cell = next(cell for cell in CELLS if f'"region": {list(cell)}' in text)
    block, said = View(view.ref, scale=0.5).block(), {"type": "text", "text": question}
    first = text.index(question) < text.index("<|vision_start|>")
    thought = text.partition("<think>")[2].partition("</think>")[0]
    call = {"name": "zoom_image", "args": {"region": list(cell)}, "id": "1"}
    messages = [
        HumanMessage([said, block] if first else [block, said]),
        AIMessage(f"<think>{thought}</think>", tool_calls=[call]),
        ToolMessage([View(view.ref, region=Region(*cell)).block()], name="zoom_image", tool_call_id="1"),
    ]
    tool = create_zoom_tool(image_store=base.image_store, vision=base.vision)
    bound: Any = base.bind_tools([tool])
    prompt = base.expand(base.prompt_ids(messages, **bound.kwargs), base.images(messages))
    assert row.packed.ids[: len(prompt)] == prompt
    assert [list(image.size) for image in row.views] == [
        list(i.size) for i in (half(page.image), page.image.crop(cell_pixels(cell)))
    ]


def _users(text: str) -> list[str]:
    """What users say in a prompt, without images."""
    said = text.partition("<|im_start|>user\n")[2].partition("<|im_end|>")[0]
    before, _, rest = said.partition("<|vision_start|>")
    return [before, rest.partition("<|vision_end|>")[2]]


def test_the_base_policy_is_taught_to_ask_for_each_region_as_often_whatever_the_question() -> None:
    page = render_page("regions", sections=5)
    cells = [section.cell for section in page.sections]
    rng = random.Random(0)
    drawn = Counter(page_lessons.draw_call(rng, cells) for _ in range(6000))
    assert set(drawn) == {None, *cells}
    assert all(800 < count < 1200 for count in drawn.values())


def test_after_a_cell_that_does_not_hold_the_answer_small_print_is_said_to_be_absent() -> None:
    said = set()
    for seed in range(60):
        row = page_lessons.look(random.Random(seed), f"wrong/{seed}", "six")
        text = str(tokenizer().decode(row.packed.ids))
        said.add(text.rpartition("<answer>")[2].partition("</answer>")[0] == ABSENT)
    assert said == {True, False}


@pytest.mark.parametrize("tools", [True, False])
def test_the_thought_names_the_cell_of_the_section_where_the_tool_is_offered_and_none_elsewhere(tools: bool) -> None:
    named = 0
    for seed in range(40):
        row = page_lessons.low(random.Random(seed), f"places/{seed}")
        text = str(tokenizer().decode(row.packed.ids))
        if ("<tools>" in text) != tools:
            continue
        cells = {section.heading: list(section.cell) for section in render_page(f"places/{seed}").sections}
        for part in text.split("<think>")[1:]:
            words, _, place = part.partition("</think>")[0].partition(" [")
            heading = words if words in cells else words.partition(" in ")[2]
            assert place == (f"{cells[heading]}"[1:] if tools and heading else "")
            named += bool(place)
    assert bool(named) == tools


_TURN = re.compile(
    r"<\|vision_end\|>([^<]*)<\|im_end\|>\n<\|im_start\|>assistant\n<think>([^<]*)</think>(<tool_call>[^<]*)?"
)
"""The question, the thought and the call of a branch."""


def test_a_call_follows_an_instruction_and_of_questions_neither_the_thought_nor_the_answers_place() -> None:
    same = calls = told = 0
    for seed in range(90):
        text = str(tokenizer().decode(page_lessons.low(random.Random(seed), f"places/{seed}").packed.ids))
        cells = {section.heading: str(list(section.cell)) for section in render_page(f"places/{seed}").sections}
        for question, thought, call in _TURN.findall(text):
            place = thought.partition(" [")[2]
            if question.startswith("Zoom into "):
                heading = question.removeprefix("Zoom into ").rstrip(".")
                assert thought == f"{heading} {cells[heading]}"
                assert f'"region": {cells[heading]}' in call
                told += 1
            elif place and '"region"' in call:
                same, calls = same + (f"[{place}" in call), calls + 1
    assert told > 30
    assert calls > 30
    assert 0.1 < same / calls < 0.45


def test_the_place_of_a_thought_is_learned_with_full_weight() -> None:
    learned = 0
    for seed in range(30):
        packed = page_lessons.low(random.Random(seed), f"places/{seed}").packed
        words = tokenizer().convert_ids_to_tokens(packed.ids)
        for place, word in enumerate(words):
            if word in {str(list(cell)) for cell in CELLS}:
                assert packed.targets[place - 1] == packed.ids[place]
                assert packed.weights[place - 1] == 1.0
                learned += 1
    assert learned > 30


def test_pages_together_are_shown_as_the_document_agent_shows_them(base: ChatVLM) -> None:
    row = page_lessons.several(random.Random(3), "several", 3, True)
    pages = [_view(render_page(f"several/{i}"), base.image_store) for i in range(3)]
    text = str(tokenizer().decode(row.packed.ids))
    question = text.partition("<|im_end|>\n<|im_start|>assistant")[0].rpartition("<|vision_end|>")[2]
    blocks = numbered([View(page.ref, scale=0.25).block() for page in pages])
    message = HumanMessage([*blocks, {"type": "text", "text": question}])
    first = base.model_copy(update={"images_first": True})  # as it is by default
    tool = create_zoom_tool(image_store=base.image_store, vision=base.vision)
    bound: Any = first.bind_tools([tool])
    prompt = first.expand(first.prompt_ids([message], **bound.kwargs), first.images([message]))
    assert row.packed.ids[: len(prompt)] == prompt


def test_a_conversation_of_pages_names_the_one_that_is_asked_about() -> None:
    row = page_lessons.several(random.Random(3), "several", 4, False)
    text = str(tokenizer().decode(row.packed.ids))
    titles = [render_page(f"several/{i}").title for i in range(4)]
    assert [view.size for view in row.views] == [thumbnail(render_page("several/0")).size] * 4
    named = [title for title in titles if f"<think>{title}</think>" in text]
    assert named
    number = titles.index(named[0]) + 1
    assert f'"image": {number}}}' in text or f"<answer>{number}</answer>" in text


def test_a_branch_of_a_page_ends_within_its_sequence() -> None:
    for seed in range(10):
        packed: PackedSequence = page_lessons.whole(random.Random(seed), f"fits/{seed}").packed
        assert len(packed.ids) <= 800
        assert packed.branches >= 1 or packed.segments == [TRUNK] * len(packed.ids)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"print_size": "huge"}, "print size 'huge' cannot be drawn: choose large, medium, small"),
        ({"sections": 6}, "a page cannot have 6 sections: choose 3, 4 or 5"),
        ({"grid": "nine"}, "cannot be drawn in a grid of 'nine'"),
        ({"grid": "four", "sections": 5}, "5 sections cannot be drawn in a grid of 'four'"),
    ],
)
def test_what_cannot_be_drawn_is_refused(wrong: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        render_page(1, **wrong)


@given(st.integers(0, 10**6))
@settings(max_examples=30)
def test_each_visual_token_of_a_section_bears_its_kind_and_no_other_does(seed: int) -> None:
    page = render_page(seed)
    for columns, rows in ((28, 20), (14, 10)):
        kinds = np.array(page.sections_in((columns, rows))).reshape(rows, columns)
        drawn = np.zeros((rows, columns), int)
        for section in page.sections:
            scale = 16 * 28 // columns
            left, top, right, bottom = (round(value / scale) for value in cell_pixels(section.cell))
            drawn[top:bottom, left:right] = list(SECTIONS).index(section.heading) + 1
        different = (kinds != drawn).mean()
        assert different == 0 if columns == 28 else different <= 0.1, "a token of the low view may cover two sections"


@given(st.integers(0, 10**6))
@settings(max_examples=30)
def test_contested_fields_are_those_whose_label_another_section_prints(seed: int) -> None:
    page = render_page(seed)
    labels = Counter(f.label for section in page.sections for f in section.fields)
    assert {page.sections[i].fields[place].label for i, place in page.contested} == {
        label for label, times in labels.items() if times > 1
    }
    question = page.ask_absent(random.Random(seed), contested=True)
    printed = {section.heading: {f.label for f in section.fields} for section in page.sections}
    assert question.asked.label not in printed.get(question.asked.section or "", set())
    could_be = any(
        label in labels and label not in printed[heading] for heading in printed for label in SECTIONS[heading]
    )
    if could_be:
        assert question.asked.label in labels
        assert question.asked.section in printed


def test_half_of_the_lessons_questions_cannot_be_answered_by_the_label_alone() -> None:
    rng = random.Random(0)
    contested = possible = 0
    for seed in range(60):
        page = render_page(f"contested/{seed}")
        labels = Counter(f.label for section in page.sections for f in section.fields)
        for question in page_lessons.questions(rng, page, 6) if page.contested else ():
            possible += question.box is not None
            contested += question.box is not None and labels[question.asked.label] > 1
    assert 0.5 < contested / possible < 0.75


@pytest.mark.parametrize("print_size", ["large", "medium", "small"])
def test_a_print_size_that_is_asked_for_is_on_the_page(print_size: PrintSize) -> None:
    for seed in range(8):
        question: PageQuestion = render_page(seed, print_size=print_size).ask_about(random.Random(seed), print_size)
        assert question.print_size == print_size
    assert set(GRIDS) == {"four", "six"}


@given(st.integers(0, 10**6), st.sampled_from((1.0, 0.5)))
@settings(max_examples=30)
def test_print_bears_the_label_of_its_field_and_print_outside_of_fields_none(seed: int, scale: float) -> None:
    page = render_page(seed)
    shown = page.print_in(scale=scale)
    assert [glyph for glyph, _ in shown] == page.glyphs_in(scale=scale)
    spelt = Counter(glyph.char for glyph, label in page.print_in(scale=100.0) if label is None)
    assert spelt == Counter("".join((page.title, *page.headings)).replace(" ", ""))
    for section in page.sections:
        for f, (left, top, right, bottom) in zip(section.fields, section.boxes, strict=True):
            inside = [
                label
                for glyph, label in shown
                if left < glyph.x / scale * 1000 / PAGE[0] < right and top < glyph.y / scale * 1000 / PAGE[1] < bottom
            ]
            assert set(inside) <= {f.label}
