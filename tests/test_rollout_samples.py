"""A rollout becomes a row: which tokens are the model's own, and that the images fit their placeholders."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vtagent.errors import ModelError
from vtagent.models.engine import EngineImage
from vtagent.training.data import Example
from vtagent.training.rl.rollout import Rollout, Turn
from vtagent.training.rl.samples import SampleMaker
from vtagent.visual_tokens import QWEN2_5_VL, QWEN3_VL, VisionSpec

IMAGE, END = 7, 2
VISION = VisionSpec(patch_size=8, merge_size=2, min_pixels=256, max_pixels=2**20)
EXAMPLE = Example("1", b"", "?", ("4",), "test")
MAKER = SampleMaker(VISION, IMAGE, never_sampled=frozenset({IMAGE}), end_id=END)


def image(columns: int, rows: int = 1) -> EngineImage:
    """An image of that many visual tokens."""
    return EngineImage(f"{columns}x{rows}", Image.new("RGB", (16 * columns, 16 * rows)))


def turn(prompt: list[int], reply: list[int], *images: EngineImage, finish: str = "stop") -> Turn:
    """A turn whose tokens had log-probability -1."""
    return Turn(tuple(prompt), tuple(reply), (-1.0,) * len(reply), finish, images)  # type: ignore[arg-type]


LOW, FULL = image(2), image(4, 2)
DIRECT = Rollout(EXAMPLE, turns=(turn([1, IMAGE, 3], [10, 11, END], LOW),))
ZOOMED = Rollout(EXAMPLE, turns=(*DIRECT.turns, turn([5, IMAGE, 6], [12, END], LOW, FULL)))


def test_a_direct_answer_is_all_the_models_own() -> None:
    row = MAKER.sample(DIRECT)
    assert row.prompt_ids == [1, IMAGE, IMAGE, 3]
    assert (row.completion_ids, row.tool_mask, row.logprobs) == ([10, 11, END], [1, 1, 1], [-1.0, -1.0, -1.0])
    assert row.images == [LOW.pixels]


def test_what_a_tool_shows_stands_between_replies_and_is_not_learned() -> None:
    row = MAKER.sample(ZOOMED)
    assert row.completion_ids == [10, 11, END, 5, *[IMAGE] * 8, 6, 12, END]
    assert row.tool_mask == [1, 1, 1, *[0] * 10, 1, 1]
    assert row.logprobs == [-1.0] * 3 + [0.0] * 10 + [-1.0] * 2
    assert row.images == [LOW.pixels, FULL.pixels]


def test_the_end_of_turn_token_is_the_models_and_what_the_template_adds_is_not() -> None:
    row = MAKER.sample(ZOOMED)
    assert (row.completion_ids[2], row.tool_mask[2]) == (END, 1)
    assert (row.completion_ids[3], row.tool_mask[3]) == (5, 0)


def test_a_row_without_a_lesson_keeps_its_tokens_and_its_images() -> None:
    row = MAKER.sample(ZOOMED)
    assert row.without_lesson() == replace(row, tool_mask=[0] * len(row.tool_mask))


def test_a_failed_run_has_the_shortest_valid_row() -> None:
    row = MAKER.empty()
    assert (row.prompt_ids, row.completion_ids, row.tool_mask, row.logprobs) == ([IMAGE, END], [END], [0], [0.0])
    assert [image.size for image in row.images] == [(16, 16)]  # one visual token


def test_the_image_of_a_failed_runs_row_is_one_that_the_models_processor_leaves_alone() -> None:
    for vision in (QWEN2_5_VL, QWEN3_VL):
        row = replace(MAKER, vision=vision).empty()
        (shown,) = row.images
        assert vision.snap(*shown.size) == shown.size
        assert row.prompt_ids.count(IMAGE) == vision.tokens(*shown.size)


@pytest.mark.parametrize(
    ("broken", "what"),
    [
        (turn([1, IMAGE], [10, IMAGE], LOW), "sampled image tokens"),
        (turn([1, IMAGE], [], LOW), "0 tokens"),
        (replace(turn([1, IMAGE], [10, 11], LOW), logprobs=(-1.0,)), "2 tokens and 1 log"),
        (turn([1, IMAGE], [10]), "placeholders"),
        (turn([1, IMAGE, 4, IMAGE], [10], LOW), "placeholders"),
        (turn([1, IMAGE, IMAGE], [10], LOW, LOW), "follow one another"),
        (turn([1, IMAGE], [10], EngineImage("odd", Image.new("RGB", (33, 16)))), "would be resized"),
    ],
)
def test_a_record_that_cannot_be_right_makes_no_row(broken: Turn, what: str) -> None:
    with pytest.raises(ModelError, match=what):
        MAKER.sample(Rollout(EXAMPLE, turns=(broken,)))


_text = st.integers(8, 40)


@given(
    st.lists(
        st.tuples(st.lists(_text, min_size=1, max_size=4), st.integers(0, 2), st.lists(_text, min_size=1, max_size=5)),
        min_size=1,
        max_size=4,
    ),
    st.data(),
)
def test_placeholders_and_masks_always_add_up(
    said: list[tuple[list[int], int, list[int]]], data: st.DataObject
) -> None:
    shown: list[EngineImage] = []
    turns = []
    for text, new_images, reply in said:
        prompt = list(text)
        for _ in range(new_images):
            shown.append(image(data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3))))
            prompt += [IMAGE, *text]
        turns.append(turn(prompt, reply, *shown))
    row = MAKER.sample(Rollout(EXAMPLE, turns=tuple(turns)))
    assert len(row.completion_ids) == len(row.tool_mask) == len(row.logprobs)
    assert [token for token, own in zip(row.completion_ids, row.tool_mask, strict=True) if own] == [
        token for one in turns for token in one.completion_ids
    ]
    tokens = sum(VISION.tokens(*pixels.size) for pixels in row.images)
    assert (row.prompt_ids + row.completion_ids).count(IMAGE) == tokens
    assert all(logprob == 0 for logprob, own in zip(row.logprobs, row.tool_mask, strict=True) if not own)
