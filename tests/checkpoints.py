"""Small random checkpoints of both families, written to disk as real ones are, so that no test downloads anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AddedToken,
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from vtagent.models.processor import VLProcessor

FamilyName = Literal["qwen3_vl", "qwen2_5_vl"]
FAMILIES: tuple[FamilyName, ...] = ("qwen3_vl", "qwen2_5_vl")

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TAGS = (
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
)
_TEXT = (
    "You are a helpful assistant. What is the total of the receipt? The total is 48.10. "
    '{"name": "zoom_image", "arguments": {"region": [500, 700, 1000, 900]}} system user assistant tools'
)
_PATCH = {"qwen3_vl": 16, "qwen2_5_vl": 14}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE with a few merges, so that re-tokenising sampled text would give other ids."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), min_frequency=1, show_progress=False
    )
    raw.train_from_iterator([_TEXT] * 3, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=list(SPECIAL),
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    return tokenizer


def make_processor(family: FamilyName = "qwen3_vl", *, chat_template: str | None = None) -> VLProcessor:
    """The processor of a small checkpoint: images between 1 and 64 visual tokens."""
    patch = _PATCH[family]
    factor = 2 * patch
    image_processor = Qwen2VLImageProcessorPil(
        patch_size=patch,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": factor * factor, "longest_edge": 64 * factor * factor},
    )
    return VLProcessor(image_processor, make_tokenizer(), chat_template=chat_template)


def make_model(family: FamilyName, processor: VLProcessor, *, seed: int = 0, heads: int = 4) -> Any:
    """A model of a few hundred thousand random parameters, large enough ones that its greedy replies vary."""
    size = 64 // heads
    sections = [size // 4, size // 8, size // 8]
    tokenizer = processor.tokenizer
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("image_pad", "video_pad")}
    common = {
        "image_token_id": ids["image_pad"],
        "video_token_id": ids["video_pad"],
        "vision_start_token_id": tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        "tie_word_embeddings": True,
    }
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
        "max_position_embeddings": 4096,
        "bos_token_id": None,
        "eos_token_id": None,
        "initializer_range": 0.15,
    }
    vision: dict[str, Any] = {
        "depth": 3,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_heads": heads,
        "patch_size": _PATCH[family],
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": 64,
        "initializer_range": 0.15,
    }
    torch.manual_seed(seed)
    if family == "qwen3_vl":
        rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": sections, "mrope_interleaved": True}
        text |= {"head_dim": size, "rope_parameters": rope}
        vision |= {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64}
        model: Any = Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision, **common))
    else:
        rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": sections}
        text |= {"rope_parameters": rope}
        vision |= {"window_size": 56, "fullatt_block_indexes": [1]}
        model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision, **common))
    model.generation_config = GenerationConfig(
        eos_token_id=[tokenizer.convert_tokens_to_ids("<|im_end|>"), tokenizer.convert_tokens_to_ids("<|endoftext|>")],
        pad_token_id=tokenizer.pad_token_id,
    )
    return model.eval()


def make_checkpoint(folder: Path, family: FamilyName, *, chat_template: str | None = None, seed: int = 0) -> Path:
    """Write config, weights, tokenizer and image processor to `folder`, and return it."""
    processor = make_processor(family, chat_template=chat_template)
    make_model(family, processor, seed=seed).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
