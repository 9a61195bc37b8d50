"""Boxes of models: what a model writes in its own convention lands where it was meant, or is refused; never elsewhere.

The tests act as the model. They mean a part of the original, write it as the convention has it on a view that was
shown, and compare in exact arithmetic where the zoom tool's view lands. Nothing here shares code with the parser.
"""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from vtagent.eyes import Eyes, Vision
from vtagent.eyes.facts import Boxes
from vtagent.eyes.rules import ClaudePatches, Gemini2Tiles, GptTiles
from vtagent.images import ImageRef, MemoryImageStore
from vtagent.tools.zoom_image import create_zoom_tool
from vtagent.views import UNSEEN, View
from vtagent.visual_tokens import QWEN2_5_VL, QWEN3_VL

RUNS = 10_000


class Convention(NamedTuple):
    """How one kind of model points: the name of its tool, how it writes a box, and how it sees."""

    tool: str
    boxes: Boxes
    vision: Vision


CONVENTIONS = {
    "thousandths": Convention("zoom_image", "thousandths", GptTiles(85, 170)),
    "thousandths, y first": Convention("zoom_image", "thousandths, y first", Gemini2Tiles()),
    "pixels": Convention("zoom_image", "pixels as shown", ClaudePatches(1568, 1568)),
    "pixels (Qwen2.5-VL)": Convention("zoom_image", "pixels as shown", replace(QWEN2_5_VL, max_pixels=10**6)),
    "Qwen3-VL's tool": Convention("image_zoom_in_tool", "thousandths", replace(QWEN3_VL, max_pixels=10**6)),
}


class KnownImages(MemoryImageStore):
    """A store that knows the sizes of images, and holds none: the zoom tool decodes nothing."""

    def __init__(self, refs: list[ImageRef]) -> None:
        super().__init__()
        self.refs = {ref.sha256: ref for ref in refs}

    def ref(self, sha256: str) -> ImageRef:
        return self.refs[sha256]

    def __contains__(self, sha256: object) -> bool:
        return sha256 in self.refs


def images(random_: random.Random) -> list[ImageRef]:
    """One to three large images of any shape that a model takes."""
    sizes = [(random_.randint(1500, 9000), random_.randint(1500, 9000)) for _ in range(random_.randint(1, 3))]
    return [ImageRef(f"{number:064x}", width, height, "image/png") for number, (width, height) in enumerate(sizes, 1)]


Box = tuple[Fraction, Fraction, Fraction, Fraction]


def on_the_original(view: View, convention: Convention, written: list[int], on: View) -> Box:
    """Where what the model wrote lies, in pixels of the original."""
    x1, y1, x2, y2 = written
    left, top, right, bottom = 0, 0, view.ref.width, view.ref.height
    unit_x = unit_y = 1000
    match convention:
        case Convention("image_zoom_in_tool"):
            left, top, right, bottom = on.box
        case Convention(_, "pixels as shown", vision):
            left, top, right, bottom = on.box
            unit_x, unit_y = on.size(vision)
        case Convention(_, "thousandths, y first"):
            y1, x1, y2, x2 = written
    return (
        left + Fraction(x1 * (right - left), unit_x),
        top + Fraction(y1 * (bottom - top), unit_y),
        left + Fraction(x2 * (right - left), unit_x),
        top + Fraction(y2 * (bottom - top), unit_y),
    )


def run(seed: int, convention: Convention) -> tuple[int, int]:
    """One conversation: low views, then calls with random boxes, half of them wrong. Counts (landed, refused).

    Raises:
        AssertionError: A box landed elsewhere, or a wrong one was granted.
    """
    dice = random.Random(seed)
    refs = images(dice)
    store = KnownImages(refs)
    eyes = Eyes("test", model="", wire="unknown", known=True, vision=convention.vision, boxes=convention.boxes)
    tool = create_zoom_tool(image_store=store, eyes=eyes, name=convention.tool)
    shown = [View(ref, 0.5) for ref in refs]
    messages: list[BaseMessage] = [HumanMessage([view.block() for view in shown])]
    landed = refused = 0
    for turn in range(4):
        number = dice.randrange(len(refs))
        views = [view for view in shown if view.ref == refs[number]]
        on = dice.choice(views) if convention.tool == "image_zoom_in_tool" else views[-1]
        wide, high = on.size(convention.vision) if convention.boxes == "pixels as shown" else (1000, 1000)
        if convention.boxes == "thousandths, y first":
            wide, high = high, wide
        x1, x2 = sorted(dice.sample(range(wide + 1), 2))
        y1, y2 = sorted(dice.sample(range(high + 1), 2))
        written: list[Any] = [x1, y1, x2, y2]
        wrong = None
        if turn % 2:
            wrong = dice.choice(["beyond", "swapped", "fractions", "negative", "empty"])
            match wrong:
                case "beyond":
                    written[2 + dice.randrange(2)] = max(wide, high) + dice.randint(1, 9000)
                case "swapped":
                    written = [x2, y1, x1, y2] if dice.random() < 0.5 else [x1, y2, x2, y1]
                case "fractions":
                    written = [x1 / (wide + 1), y1 / (high + 1), x2 / (wide + 1), y2 / (high + 1)]
                case "negative":
                    written[dice.randrange(4)] = -dice.randint(1, 1000)
                case "empty":
                    written[2] = written[0]
        elif max(written) <= 1:
            continue
        which = (
            {"bbox_2d": written, "label": "it", "img_idx": shown.index(on)}
            if convention.tool == "image_zoom_in_tool"
            else {"region": written, "image": number + 1}
        )
        call = {"type": "tool_call", "id": str(turn), "name": tool.name}
        messages.append(AIMessage("", tool_calls=[{"name": tool.name, "args": which, "id": str(turn)}]))
        answer = tool.invoke({**call, "args": {**which, "messages": messages}})
        assert isinstance(answer, ToolMessage)
        messages.append(answer)
        if wrong is not None:
            assert answer.status == "error", (seed, wrong, written, answer.text)
            refused += 1
        elif answer.status == "error":
            assert "already been shown" in answer.text, (seed, written, answer.text)
        else:
            view = View.from_url(answer.artifact["view"], store)
            check_landed(seed, view, on_the_original(view, convention, written, on), convention.vision)
            assert view.ref == on.ref
            shown.append(view)
            landed += 1
    return landed, refused


def check_landed(seed: int, view: View, meant: Box, vision: Vision) -> None:
    """The view holds all that was meant, and no more than rounding and the smallest view ask for."""
    left, top, right, bottom = view.box
    assert left <= meant[0], (seed, view, meant)
    assert top <= meant[1], (seed, view, meant)
    assert right >= meant[2], (seed, view, meant)
    assert bottom >= meant[3], (seed, view, meant)
    # Two thousandths and two pixels of rounding; a side that is too short for the model is grown.
    smallest = vision.factor
    for low, high, meant_low, meant_high, side, other in (
        (left, right, meant[0], meant[2], view.ref.width, meant[3] - meant[1]),
        (top, bottom, meant[1], meant[3], view.ref.height, meant[2] - meant[0]),
    ):
        most: Fraction = max(meant_high - meant_low, Fraction(smallest), other / vision.max_aspect)
        assert high - low <= most + Fraction(3 * side, 1000) + 3, (seed, view, meant)


@pytest.mark.parametrize("name", list(CONVENTIONS))
def test_ten_thousand_random_boxes_land_where_they_were_meant_or_are_refused(name: str) -> None:
    landed = refused = 0
    for seed in range(RUNS // 4 // len(CONVENTIONS) + 1):
        found = run(seed, CONVENTIONS[name])
        landed, refused = landed + found[0], refused + found[1]
    assert landed > 500
    assert refused > 900


@settings(max_examples=200)
@given(seed=st.integers(0, 2**32), name=st.sampled_from(list(CONVENTIONS)))
def test_any_box_lands_where_it_was_meant_or_is_refused(seed: int, name: str) -> None:
    run(seed, CONVENTIONS[name])


def eyes_with(boxes: Boxes, vision: Vision) -> Eyes:
    return Eyes("test", model="", wire="unknown", known=True, vision=vision, boxes=boxes)


def answer_of(
    tool_name: str, eyes: Eyes, messages: list[BaseMessage], refs: list[ImageRef], **said: Any
) -> ToolMessage:
    tool = create_zoom_tool(image_store=KnownImages(refs), eyes=eyes, name=tool_name)
    answer = tool.invoke({"type": "tool_call", "id": "1", "name": tool_name, "args": {**said, "messages": messages}})
    assert isinstance(answer, ToolMessage)
    return answer


PHOTO = ImageRef("ab" * 32, 4000, 3000, "image/jpeg")
CLAUDE = eyes_with("pixels as shown", ClaudePatches(1568, 1568))


def test_a_box_of_pixels_beyond_the_view_is_told_the_views_size() -> None:
    width, height = View(PHOTO, 0.5).size(CLAUDE.vision)
    messages: list[BaseMessage] = [HumanMessage([View(PHOTO, 0.5).block()])]
    answer = answer_of("zoom_image", CLAUDE, messages, [PHOTO], region=[0, 0, 1000, 900])
    assert answer.status == "error"
    assert f"outside the image, which was shown at {width} x {height}" in answer.text


def test_what_tools_answered_to_the_same_reply_was_not_in_sight_when_it_was_made() -> None:
    part = View.from_url(f"{PHOTO.url}?region=500,500,1000,1000", KnownImages([PHOTO]))
    reply = AIMessage("", tool_calls=[{"name": each, "args": {}, "id": each} for each in ("other", "zoom_image")])
    beside = ToolMessage([part.block()], name="other", tool_call_id="other")
    messages: list[BaseMessage] = [HumanMessage([View(PHOTO, 0.5).block()]), reply, beside]
    width, height = View(PHOTO, 0.5).size(CLAUDE.vision)
    answer = answer_of("zoom_image", CLAUDE, messages, [PHOTO], region=[0, 0, width // 2, height // 2])
    assert answer.artifact["view"].endswith("region=0,0,500,500")


def test_a_box_on_an_image_that_is_out_of_sight_is_refused_and_the_whole_is_not() -> None:
    messages: list[BaseMessage] = [HumanMessage([View(PHOTO, UNSEEN).block()])]
    refused = answer_of("zoom_image", CLAUDE, messages, [PHOTO], region=[0, 0, 100, 100])
    assert "Image 1 is no longer shown" in refused.text
    assert answer_of("zoom_image", CLAUDE, messages, [PHOTO]).status == "success"


def test_more_than_twenty_images_lower_the_pixels_that_a_box_is_written_in() -> None:
    from vtagent.eyes import Limits

    eyes = replace(
        eyes_with("pixels as shown", ClaudePatches(2576, 4784)), limits=Limits(many_images=20, many_images_side=1000)
    )
    others = [ImageRef(f"{number:064x}", 640, 480, "image/png") for number in range(1, 21)]
    shown = [View(PHOTO), *(View(ref, 0.5) for ref in others)]
    messages: list[BaseMessage] = [HumanMessage([view.block() for view in shown])]
    width, height = View(PHOTO).size(eyes.vision_for(21))
    assert width <= 1000
    answer = answer_of("zoom_image", eyes, messages, [PHOTO, *others], region=[0, 0, width // 2, height])
    assert answer.artifact["view"].endswith("region=0,0,500,1000")


@pytest.mark.parametrize(("index", "says"), [(2, "img_idx is an integer from 0 to 1"), ("x", "There is no image 'x'")])
def test_qwens_index_counts_the_views_from_zero(index: object, says: str) -> None:
    eyes = eyes_with("thousandths", QWEN3_VL)
    zoom = View.from_url(f"{PHOTO.url}?region=0,0,500,500", KnownImages([PHOTO]))
    messages: list[BaseMessage] = [
        HumanMessage([View(PHOTO, 0.5).block()]),
        AIMessage("", tool_calls=[{"name": "image_zoom_in_tool", "args": {}, "id": "0"}]),
        ToolMessage([zoom.block()], name="image_zoom_in_tool", tool_call_id="0"),
    ]
    messages.append(AIMessage("", tool_calls=[{"name": "image_zoom_in_tool", "args": {}, "id": "1"}]))
    answer = answer_of("image_zoom_in_tool", eyes, messages, [PHOTO], bbox_2d=[0, 0, 9, 9], img_idx=index)
    assert (answer.status, says in answer.text) == ("error", True)
    small = replace(eyes, vision=replace(QWEN3_VL, max_pixels=10**6))
    answer = answer_of("image_zoom_in_tool", small, messages, [PHOTO], bbox_2d=[500, 0, 1000, 500], img_idx="1")
    assert answer.artifact["view"].endswith("region=250,0,500,250")
