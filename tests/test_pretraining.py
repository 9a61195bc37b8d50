"""Pretraining: packed sequences compute what conversations do, lessons repeat, an interrupted run goes on unchanged."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import Qwen3VLForConditionalGeneration

from vtagent.models.processor import VLProcessor
from vtagent.training import pretrain
from vtagent.training.documents import Glyph, render_document
from vtagent.training.pretrain import STATE, Curve, Settings, Trainer, run
from vtagent.training.pretraining import lessons
from vtagent.training.pretraining.batched import ATTENTION, encode_pages, hidden_states, packed_loss, patchify
from vtagent.training.pretraining.lesson_page import LessonPage
from vtagent.training.pretraining.lessons import LessonDataset, draw_batch, draw_lesson, glyph_slots, label_rows
from vtagent.training.pretraining.packing import PackedSequence, collate
from vtagent.training.pretraining.policy import (
    CHAT_TEMPLATE,
    MERGE_SIZE,
    PATCH_SIZE,
    build_model,
    build_tokenizer,
    save_policy,
)
from vtagent.training.pretraining.supervision import HALF, TOKEN, encode, tokenizer


@pytest.fixture(scope="module")
def model() -> Qwen3VLForConditionalGeneration:
    policy: Qwen3VLForConditionalGeneration = build_model(tokenizer(), seed=1).eval()
    return policy


@pytest.fixture(scope="module")
def checkpoint(model: Qwen3VLForConditionalGeneration, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy")
    save_policy(model, build_tokenizer(), folder)
    return folder


def packed_sequence(questions: int) -> PackedSequence:
    sequence = PackedSequence(encode("<|image_pad|>")[0])
    sequence.text(encode("<|im_start|>user\n<|vision_start|>"))
    sequence.image(HALF[1] // TOKEN, HALF[0] // TOKEN)
    for number in range(questions):
        sequence.branch()
        sequence.text(encode(f"<|vision_end|>What is the Total?<|im_end|>\n<|im_start|>assistant\n{number}"))
        reply = encode(f"<answer>{number}{number}.50</answer><|im_end|>")
        sequence.text(reply, weights=[1.0] * len(reply))
    return sequence


def test_a_branch_computes_what_the_conversation_alone_computes(model: Qwen3VLForConditionalGeneration) -> None:
    pixels = torch.randint(0, 256, (2, 3, HALF[1], HALF[0]), dtype=torch.uint8, generator=torch.manual_seed(0))
    sequence, other = packed_sequence(3), packed_sequence(1)
    language = model.model.language_model.config
    with torch.no_grad():
        language._attn_implementation = ATTENTION
        packed = hidden_states(model, collate([sequence, other], pad=0), [encode_pages(model.model.visual, pixels)])
        language._attn_implementation = "sdpa"
        for branch in (1, 2, 3):
            segments = torch.tensor(sequence.segments)
            chosen = (segments == 0) | (segments == branch)
            ids = torch.tensor(sequence.ids)[chosen][None]
            patches = patchify(pixels[:1], PATCH_SIZE, MERGE_SIZE).view(-1, 3, 1, PATCH_SIZE**2)
            alone = model.model(
                input_ids=ids,
                pixel_values=patches.expand(-1, 3, 2, -1).flatten(1),
                image_grid_thw=torch.tensor([[1, HALF[1] // PATCH_SIZE, HALF[0] // PATCH_SIZE]]),
                mm_token_type_ids=(ids == model.config.image_token_id).int(),
            ).last_hidden_state[0]
            torch.testing.assert_close(packed[0, : len(sequence.ids)][chosen], alone, atol=1e-4, rtol=0)


def test_patches_are_those_of_the_processor(checkpoint: Path) -> None:
    image = render_document(3, print_size="large").image
    processed = VLProcessor.from_pretrained(checkpoint).image_processor(images=[image], return_tensors="pt")
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(1, image.height, image.width, 3)
    ours = patchify(pixels.permute(0, 3, 1, 2), PATCH_SIZE, MERGE_SIZE)[0].view(-1, 3, 1, PATCH_SIZE**2)
    torch.testing.assert_close(ours.expand(-1, 3, 2, -1).flatten(1), processed["pixel_values"], atol=1e-6, rtol=0)


def test_loss_counts_weighted_targets_alone(model: Qwen3VLForConditionalGeneration) -> None:
    batch = collate([packed_sequence(2)], pad=0)
    hidden = torch.randn(*batch.ids.shape, model.lm_head.in_features, generator=torch.manual_seed(0))
    learned = batch.weights > 0
    logits = model.lm_head(hidden)[learned]
    expected = torch.nn.functional.cross_entropy(logits, batch.targets[learned])
    torch.testing.assert_close(packed_loss(model, batch, hidden), expected)
    assert tokenizer().decode(batch.targets[learned][:7]) == "<answer>00.50</answer>"


def test_a_glyph_falls_in_the_slot_that_holds_its_centre() -> None:
    slots = glyph_slots([Glyph("A", 17.0, 3.0), Glyph("b", 31.9, 15.9), Glyph("c", -1.0, 5.0)], 64, 32)
    assert slots.shape == (8, 8)
    assert slots[1, 0] == lessons.GLYPH_INDEX["A"]
    assert slots[1, 7] == lessons.GLYPH_INDEX["b"]
    assert (slots > 0).sum() == 2


def test_the_label_of_a_field_falls_in_the_half_token_that_holds_its_print() -> None:
    glyphs = [Glyph("a", 17.0, 3.0), Glyph("b", 17.0, 9.0), Glyph("T", 40.0, 20.0), Glyph("x", 99.0, 3.0)]
    page = LessonPage([], glyphs, PackedSequence(0), labels=["Date", "Total", None, "Date"])
    rows = label_rows(page, 64, 32)
    assert rows.shape == (8, 2)
    assert rows.nonzero().tolist() == [[1, 0], [1, 1]]
    assert rows[1].tolist() == [lessons.LABEL_INDEX["Date"], lessons.LABEL_INDEX["Total"]]


@pytest.mark.parametrize("lesson", ["low", "region", "page", "look", "pages"])
def test_lessons_of_pages_teach_labels_and_take_several_times_the_rows(lesson: lessons.Lesson) -> None:
    once, thrice = draw_batch(lesson, 4), draw_batch(lesson, 4, times=3)
    assert thrice.slots.shape[0] == 3 * once.slots.shape[0]
    assert thrice.packed is not None
    assert thrice.packed.ids.shape[0] == 3 * once.slots.shape[0]
    assert once.labels is not None
    assert once.labels.shape == (*once.slots.shape[:2], 2)
    assert (once.labels > 0).any() or lesson == "pages"
    assert not ((once.labels > 0) & (once.slots.unflatten(-1, lessons.SLOTS) > 0).logical_not().all(-1)).any()


def test_a_training_step_learns_from_every_head() -> None:
    trainer = Trainer(Settings(steps=10, warmup=1), device="cpu")
    before = {name: weight.detach().clone() for name, weight in trainer.heads.named_parameters()}
    figures = trainer.update(draw_batch("low", 0))
    assert set(figures) == {"glyph_accuracy", "section_accuracy", "label_accuracy", "loss"}
    assert all(not torch.equal(before[name], weight) for name, weight in trainer.heads.named_parameters())


@pytest.mark.parametrize("lesson", ["line", "near", "full", "zoomed"])
def test_a_step_draws_the_same_batch_whoever_asks(lesson: lessons.Lesson, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(lessons.BATCH, lesson, 3)
    one, two, other = (draw_batch(lesson, step, read_all=0.5) for step in (7, 7, 8))
    assert one.packed is not None
    assert two.packed is not None
    assert all(torch.equal(a, b) for a, b in zip(one.views, two.views, strict=True))
    assert torch.equal(one.packed.ids, two.packed.ids)
    assert not torch.equal(one.views[-1], other.views[-1])


def test_the_base_policy_is_taught_to_zoom_on_half_of_what_it_sees_whatever_the_print(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(lessons.BATCH, "near", 24)
    calls = answers = 0
    for step in range(8):
        packed = draw_batch("near", step).packed
        assert packed is not None
        decided = packed.targets[packed.weights == 1.0]
        calls += int((decided == encode("<tool_call>")[0]).sum())
        answers += int((decided == encode("<answer>")[0]).sum())
    assert calls + answers > 100
    assert 0.4 < calls / (calls + answers) < 0.6


def test_the_curriculum_goes_from_glyphs_over_cards_to_pages_and_two_turns() -> None:
    assert {draw_lesson(step, 1000)[0] for step in range(100)} == {"glyphs"}
    before = {draw_lesson(step, 1000)[0] for step in range(460)}
    assert before == {"glyphs", "line", "near", "full"}
    assert {draw_lesson(step, 1000)[0] for step in range(460, 1000)} == set(lessons.BATCH) - {"glyphs", "line"}


def test_what_goes_on_with_a_policy_teaches_pages_above_all() -> None:
    drawn = [draw_lesson(step, 1000, "further")[0] for step in range(1000)]
    pages = [lesson for lesson in drawn if lesson in ("low", "region", "page", "look", "pages")]
    assert len(pages) > 900
    assert drawn.count("page") > 2 * [draw_lesson(step, 1000)[0] for step in range(460, 1000)].count("page")
    assert set(drawn) == set(lessons.BATCH) - {"glyphs", "line"}


def test_places_are_taught_by_low_views_and_by_pages_together() -> None:
    drawn = [draw_lesson(step, 1000, "places")[0] for step in range(1000)]
    assert drawn.count("low") + drawn.count("look") > 500
    assert drawn.count("pages") > 200
    assert set(drawn) == set(lessons.BATCH) - {"glyphs", "line"}


@pytest.mark.parametrize("curriculum", ["further", "places"])
def test_going_on_needs_a_policy_to_go_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], curriculum: str
) -> None:
    with pytest.raises(SystemExit):
        pretrain.main(["--out", str(tmp_path / "run"), "--curriculum", curriculum])
    assert f"--curriculum {curriculum}: it goes on" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_that_begins_in_the_middle_takes_up_the_steps_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(lessons, "draw_batch", lambda lesson, step, read_all, times: drawn.append(step))
    assert len(list(LessonDataset(start=3, steps=9))) == 6
    assert drawn == [3, 4, 5, 6, 7, 8]


def test_a_run_that_was_interrupted_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for lesson in lessons.BATCH:
        monkeypatch.setitem(lessons.BATCH, lesson, 2)
    monkeypatch.setattr(pretrain, "probe", lambda model: {"share": 0.0})
    settings = Settings(steps=6, warmup=2)
    whole = run(settings, tmp_path / "whole", workers=0)

    update = Trainer.update

    def interrupted(self: Trainer, batch: lessons.LessonBatch) -> dict[str, torch.Tensor]:
        if self.step == 3:
            raise KeyboardInterrupt  # as a kill would: between two saves
        return update(self, batch)

    monkeypatch.setattr(Trainer, "update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(settings, tmp_path / "parts", workers=0, save_every=2)
    monkeypatch.setattr(Trainer, "update", update)
    resumed = run(settings, tmp_path / "parts", workers=0, save_every=2)
    assert resumed.step == whole.step == 6
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    assert (tmp_path / "parts" / "curve.png").stat().st_size > 1000
    assert (tmp_path / "parts" / "curve.csv").read_text().count("\n") == 2


def test_an_interrupt_ends_the_step_saves_it_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for lesson in lessons.BATCH:
        monkeypatch.setitem(lessons.BATCH, lesson, 2)
    monkeypatch.setattr(pretrain, "probe", lambda model: {"share": 0.0})
    settings = Settings(steps=4, warmup=2)
    update = Trainer.update

    def interrupted(self: Trainer, batch: lessons.LessonBatch) -> dict[str, torch.Tensor]:
        if self.step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return update(self, batch)

    handlers = [signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)]
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "update", interrupted)
            stopped = run(settings, tmp_path, workers=0, probe_every=1)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL  # a second one kills
        assert "stopped at step 2; the same command goes on from here" in capsys.readouterr().out
        assert (stopped.step, (tmp_path / "policy").exists()) == (2, False)
        assert run(settings, tmp_path, workers=0, probe_every=1).step == 4
    finally:
        for name, handler in zip((signal.SIGINT, signal.SIGTERM), handlers, strict=True):
            signal.signal(name, handler)
    assert (tmp_path / "curve.csv").read_text().count("\n") == 5
    assert not list(tmp_path.glob(".*.part"))
    assert (tmp_path / "policy" / "config.json").is_file()


def test_a_curve_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(Settings(steps=5))
    curve = Curve(tmp_path / "curve.csv", 0)
    curve.write(trainer, {"share": 0.1})
    before = (tmp_path / "curve.csv").read_text()

    def full(*_: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("csv.DictWriter.writerows", full)
    with pytest.raises(OSError, match="full"):
        curve.write(trainer, {"share": 0.2})
    assert (tmp_path / "curve.csv").read_text() == before


def test_a_state_of_other_settings_is_refused(tmp_path: Path) -> None:
    Trainer(Settings(steps=5)).save(tmp_path)
    with pytest.raises(SystemExit, match="other settings"):
        Trainer(Settings(steps=6)).load(tmp_path)
    assert (tmp_path / STATE).exists()


def test_the_checkpoint_is_small_and_loads_as_any_other(checkpoint: Path) -> None:
    assert all(file.stat().st_size <= 10_000_000 for file in checkpoint.iterdir())
    loaded = Qwen3VLForConditionalGeneration.from_pretrained(checkpoint)
    assert loaded.config.model_type == "qwen3_vl"
    assert VLProcessor.from_pretrained(checkpoint).tokenizer.chat_template == CHAT_TEMPLATE


@pytest.mark.parametrize(
    "text", ["Total?", "What is the Ref?", 'a"b{}<>\n', "Qty: 1,234.50 KX-77", "<think>Tel</think>"]
)
def test_the_tokenizer_gives_back_what_it_was_given(text: str) -> None:
    assert tokenizer().decode(list(encode(text))) == text


def test_an_image_of_the_page_size_is_left_as_it_is(checkpoint: Path) -> None:
    vision = VLProcessor.from_pretrained(checkpoint).vision
    assert vision.snap(224, 160) == (224, 160)
    assert vision.tokens(224, 160) == 140
    assert vision.tokens(112, 80) == 35
    assert Image.new("RGB", vision.snap(100, 90)).size == (96, 96)


def test_the_template_leaves_out_words_beside_an_image_that_a_tool_returns_but_not_a_refusal() -> None:
    shown: dict[str, Any] = {"role": "tool", "content": [{"type": "text", "text": "all of it"}, {"type": "image"}]}
    refused: dict[str, Any] = {"role": "tool", "content": "shown before"}
    rendered = tokenizer().apply_chat_template([shown, refused], tokenize=False)
    assert "all of it" not in rendered
    assert "<tool_response><|vision_start|><|image_pad|><|vision_end|></tool_response>" in rendered
    assert "<tool_response>shown before</tool_response>" in rendered
