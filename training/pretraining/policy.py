"""The bundled policy before it has learned anything: its tokenizer, chat template, image processing and architecture.

Qwen3-VL in miniature. What differs from the large ones, and why:

* Characters are the vocabulary, so a printed value is read glyph by glyph; tags, labels, question phrasings and the
  fixed parts of a tool call are single tokens, so that a whole reply is about fifteen tokens long.
* Patches are 8 pixels wide and merged 2 × 2: a visual token covers 16 × 16 pixels, two or three small glyphs.
* DeepStack is off: it feeds early vision layers into language layers, which four layers do not need.
"""

from __future__ import annotations

import json
import string
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from vtagent.training.documents.values import LABELS, QUESTIONS, READ_ALL

END = "<|im_end|>"
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    END,
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TAGS = (
    "<tools>",
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
)
CALL_HEAD, CALL_TAIL = '{"name": "zoom_image", "arguments": {', "}}"
ROLES = ("system", "user", "assistant")

PATCH_SIZE, MERGE_SIZE = 8, 2
MIN_PIXELS, MAX_PIXELS = 16 * 16 * 4, 16 * 16 * 512
"""4 to 512 visual tokens an image: a page in full is 140 of them, at half its sides 35."""

CHAT_TEMPLATE = """\
{%- macro parts(content, images_only=false) -%}
{%- if content is string -%}{{ content }}
{%- else -%}
{%- for part in content -%}
{%- if part.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>
{%- elif part.type == 'text'
    and not (images_only and content | selectattr('type', 'equalto', 'image') | list) -%}{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- if tools %}{{ '<|im_start|>system\\n<tools><|im_end|>\\n' }}{% endif -%}
{%- for message in messages -%}
{%- if message.role == 'user' -%}
{{ '<|im_start|>user\\n' + parts(message.content) + '<|im_end|>\\n' }}
{%- elif message.role == 'assistant' -%}
{{ '<|im_start|>assistant\\n' + parts(message.content) }}
{%- for call in message.tool_calls or [] -%}
{%- set call = call.function or call -%}
{{ '<tool_call>{"name": "' + call.name + '", "arguments": ' }}
{{- call.arguments if call.arguments is string else call.arguments | tojson }}
{{- '}</tool_call>' }}
{%- endfor -%}
{{ '<|im_end|>\\n' }}
{%- elif message.role == 'tool' -%}
{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{ '<|im_start|>user\\n' }}{% endif -%}
<tool_response>{{ parts(message.content, images_only=true) }}</tool_response>
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ '<|im_end|>\\n' }}{% endif -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}
"""
"""System text is left out on purpose, and so are the words beside an image that a tool returns: this policy has learned
its protocol and reads no instructions. Offered tools become one token, since it knows one tool only."""


def phrase_tokens() -> tuple[str, ...]:
    """The fixed halves of every question, such as "What is the "."""
    halves = {half for question in QUESTIONS for half in question.split("{}") if len(half) > 1}
    return (*sorted(halves), READ_ALL)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """About 150 tokens; any printable ASCII text can be spelled, other characters become `?`."""
    characters = [*string.digits, *string.ascii_letters, *string.punctuation, " ", "\n"]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*SPECIAL, *TAGS, *characters]))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    backend.add_tokens([AddedToken(token, normalized=False) for token in TAGS])
    phrases = [CALL_HEAD, CALL_TAIL, *ROLES, *LABELS]
    backend.add_tokens([AddedToken(token, normalized=False, single_word=token.isalpha()) for token in phrases])
    backend.add_tokens([AddedToken(token, normalized=False) for token in phrase_tokens()])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END,
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, *, seed: int = 0) -> Qwen3VLForConditionalGeneration:
    """Untrained, fp32. Matrices N(0, 1 / fan-in), outputs into the residual stream a fifth of that."""
    ids = tokenizer.get_vocab()
    config = Qwen3VLConfig(
        vision_config={
            "depth": 4,
            "hidden_size": 192,
            "num_heads": 3,
            "intermediate_size": 512,
            "patch_size": PATCH_SIZE,
            "spatial_merge_size": MERGE_SIZE,
            "temporal_patch_size": 2,
            "out_hidden_size": 192,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [],
            "rope_parameters": {"rope_type": "axial", "rope_theta": 100.0},
        },
        text_config={
            "vocab_size": -(-len(tokenizer) // 32) * 32,
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "num_key_value_heads": 6,
            "head_dim": 32,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1000.0,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
            "tie_word_embeddings": True,
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": None,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                fan_in = parameter[0].numel()
                residual = name.endswith(
                    ("o_proj.weight", "down_proj.weight", "attn.proj.weight", "mlp.linear_fc2.weight")
                )
                embedding = "embed" in name and "patch" not in name
                std = 0.05 if embedding else fan_in**-0.5 * (0.2 if residual else 1.0)
                parameter.normal_(0, std)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def save_policy(model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a checkpoint folder in half precision, as any `from_pretrained` reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    half = {name: tensor.to(torch.float16) for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    model.save_pretrained(folder, state_dict=half)
    config = json.loads((folder / "config.json").read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = "float16"
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(image_processing(), indent=2) + "\n")


def image_processing() -> dict[str, object]:
    """The image processor's settings: pixels to [-1, 1], sizes snapped to 16 pixels."""
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": PATCH_SIZE,
        "merge_size": MERGE_SIZE,
        "temporal_patch_size": 2,
        "size": {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "do_convert_rgb": True,
        "do_resize": True,
        "resample": 3,
    }
