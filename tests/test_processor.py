"""The processor loads what Qwen checkpoints ship, without their video part, and agrees with our own arithmetic."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.checkpoints import FAMILIES, FamilyName, make_checkpoint, make_processor
from vtagent.errors import ModelError
from vtagent.models.chat import ChatVLM
from vtagent.models.families import chat_template, checkpoint_path, family_by_name, family_of, tool_template
from vtagent.models.lazy import sizes_of
from vtagent.models.openai_server import load_served
from vtagent.models.processor import VLProcessor
from vtagent.visual_tokens import QWEN2_5_VL, QWEN3_VL, VisionSpec


@pytest.mark.parametrize("family", FAMILIES)
def test_it_saves_and_loads(family: FamilyName, tmp_path: Path) -> None:
    processor = make_processor(family, chat_template=tool_template())
    processor.save_pretrained(tmp_path)
    loaded = VLProcessor.from_pretrained(tmp_path)
    assert loaded.vision == processor.vision
    assert loaded.chat_template == processor.chat_template
    assert loaded.tokenizer.encode("What is <think>?") == processor.tokenizer.encode("What is <think>?")


def test_a_stock_folder_loads_and_its_video_files_are_left_alone(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, "qwen3_vl")
    (tmp_path / "processor_config.json").unlink()
    stock = {
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "processor_class": "Qwen3VLProcessor",
        "size": {"shortest_edge": 65536, "longest_edge": 16777216},
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stock))
    video = {"video_processor_type": "Qwen3VLVideoProcessor", "processor_class": "Qwen3VLProcessor"}
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(video))
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": tool_template() + "{# stock #}"}))
    processor = VLProcessor.from_pretrained(tmp_path)
    assert (processor.vision.min_pixels, processor.vision.max_pixels) == (65536, 16777216)
    assert list(processor.image_processor.image_mean) == [0.5, 0.5, 0.5]
    assert str(processor.chat_template).endswith("{# stock #}")


def test_older_limits_named_min_and_max_pixels_are_read(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, "qwen2_5_vl")
    (tmp_path / "processor_config.json").unlink()
    stock = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stock))
    vision = VLProcessor.from_pretrained(tmp_path).vision
    assert (vision.min_pixels, vision.max_pixels, vision.factor) == (3136, 12845056, 28)


@pytest.mark.parametrize("family", FAMILIES)
def test_placeholders_and_grids_are_those_of_the_vision_spec(family: FamilyName) -> None:
    processor = make_processor(family)
    vision = processor.vision
    size = vision.fit(300, 170)
    out = processor(
        text="<|vision_start|><|image_pad|><|vision_end|>", images=[Image.new("RGB", size)], return_tensors="pt"
    )
    assert tuple(out["image_grid_thw"][0].tolist()) == vision.grid(*size)
    assert int((out["input_ids"] == processor.image_token_id).sum()) == vision.tokens(*size)


@pytest.mark.parametrize("family", FAMILIES)
def test_pixels_are_those_of_the_image_processor_bit_for_bit(family: FamilyName) -> None:
    processor = make_processor(family)
    noise = np.random.default_rng(0).integers(0, 255, (400, 300, 3)).astype(np.uint8)
    images = [Image.fromarray(noise).resize(processor.vision.fit(*size)) for size in ((300, 170), (90, 200))]
    stock = processor.image_processor(images, return_tensors="pt")
    pixels, grids = processor.pixels(images)
    assert torch.equal(pixels, stock["pixel_values"])
    assert torch.equal(grids, stock["image_grid_thw"])


def test_a_template_that_shows_no_tools_or_no_tool_images_is_replaced_by_ours() -> None:
    tokenizer = make_processor().tokenizer
    image = "{% if c.type == 'image' %}<|image_pad|>{% endif %}"
    deaf = "{% for m in messages %}{% for c in m.content %}" + image + "{% endfor %}{% endfor %}"
    blind = "{% if tools %}tools{% endif %}{% for m in messages %}{{ m.role }}{% endfor %}"
    capable = "{% if tools %}tools{% endif %}" + deaf
    assert chat_template(deaf, tokenizer) == tool_template()
    assert chat_template(blind, tokenizer) == tool_template()
    assert chat_template(None, tokenizer) == tool_template()
    assert chat_template("{{ raise_exception('no') }}", tokenizer) == tool_template()
    assert chat_template(capable, tokenizer) == capable
    assert chat_template({"default": deaf, "tool_use": capable}, tokenizer) == capable


def test_our_template_writes_turns_tools_calls_and_tool_images() -> None:
    tokenizer = make_processor().tokenizer
    call = {"type": "function", "function": {"name": "zoom_image", "arguments": {"region": None}}}
    text = tokenizer.apply_chat_template(
        [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Total?"}]},
            {"role": "assistant", "content": "<think>Blurred.</think>", "tool_calls": [call]},
            {"role": "tool", "content": [{"type": "text", "text": "640x480"}, {"type": "image"}]},
            {"role": "tool", "content": "seen"},
        ],
        tools=[{"type": "function", "function": {"name": "zoom_image"}}],
        chat_template=tool_template(),
        tokenize=False,
        add_generation_prompt=True,
    )
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    system, rest = text.split("<|im_end|>\n", 1)
    assert system.startswith("<|im_start|>system\n")
    assert '{"type": "function", "function": {"name": "zoom_image"}}' in system
    assert rest == (
        f"<|im_start|>user\n{image}Total?<|im_end|>\n"
        "<|im_start|>assistant\n<think>Blurred.</think>\n"
        '<tool_call>\n{"name": "zoom_image", "arguments": {"region": null}}\n</tool_call><|im_end|>\n'
        f"<|im_start|>user\n<tool_response>\n640x480{image}\n</tool_response>\n"
        "<tool_response>\nseen\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_a_saved_processor_has_the_file_in_which_vllm_looks_for_video_settings(tmp_path: Path) -> None:
    make_processor().save_pretrained(tmp_path)
    told = json.loads((tmp_path / "preprocessor_config.json").read_text(encoding="utf-8"))
    assert told["patch_size"] == make_processor().vision.patch_size


def test_a_folder_without_a_tokenizer_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no Qwen tokenizer and image processor") as caught:
        VLProcessor.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_other_model_types_are_refused() -> None:
    with pytest.raises(ModelError, match="'llama' is not served"):
        family_of("llama")


def test_only_bundled_policies_names_resolve_to_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    monkeypatch.setattr("vtagent.models.families.POLICIES", tmp_path)
    assert checkpoint_path("base") == str(tmp_path / "base")
    assert checkpoint_path("Qwen/Qwen3-VL-2B-Instruct") == "Qwen/Qwen3-VL-2B-Instruct"
    assert checkpoint_path("../base") == "../base"


@pytest.mark.parametrize("model_type", ["qwen3_5", "qwen3_5_moe"])
def test_a_model_with_linear_attention_is_refused_by_its_name_and_before_its_weights(
    model_type: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(ModelError, match=f"'{model_type}' is not served: .*linear attention.*; take a dense") as caught:
        ChatVLM.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "vision"),
    [
        ("qwen2.5vl:7b", QWEN2_5_VL),
        ("ollama/qwen2.5vl", QWEN2_5_VL),
        ("Qwen/Qwen2.5-VL-7B-Instruct", QWEN2_5_VL),
        ("qwen2_5_vl-awq", QWEN2_5_VL),
        ("qwen2.5-vl-72b-instruct", QWEN2_5_VL),
        ("qwen3-vl:8b", QWEN3_VL),
        ("Qwen3VL-4B", QWEN3_VL),
        ("Qwen/Qwen3-VL-8B-Thinking", QWEN3_VL),
        ("somebody/reader", QWEN3_VL),
    ],
)
def test_the_name_of_a_servers_model_tells_its_grid(name: str, vision: VisionSpec) -> None:
    assert family_by_name(name).vision == vision
    assert sizes_of(name) == vision
    assert load_served(name, "http://127.0.0.1:9/v1", 1.0)[2] == vision
