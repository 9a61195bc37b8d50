"""Builds the untrained bundled policy: tokenizer, chat template, image processing and model.

It is a small Qwen3-VL. It differs from the large ones in three points:

* The vocabulary is characters, so a printed value is read glyph by glyph. Tags, labels, question phrasings and the
  fixed parts of a tool call are single tokens, so a whole reply takes about fifteen tokens.
* Patches are 8 pixels wide and merged 2 × 2. A visual token covers 16 × 16 pixels: two or three small glyphs.
* DeepStack, which feeds early vision layers into language layers, is off. Four layers do not need it.
"""

from __future__ import annotations

import json
import string
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from vtagent.abstention import ABSENT
from vtagent.numbering import NUMBERED
from vtagent.training.documents.pages import CELLS, Cell
from vtagent.training.documents.sections import NEW_LABELS, SECTIONS, TITLES, WHICH_PAGE, ZOOM_INTO
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
"""The text of a call without arguments, in two tokens."""
CALL_IMAGE = '"image": '
"""Begins the argument that names an image by its number."""
CALL_REGION = '"region": '
"""Begins the argument that asks for a cell."""


def cell_token(cell: Cell) -> str:
    """A cell as a call and a thought name it: one token, so that choosing a cell is one decision."""
    return str(list(cell))


ROLES = ("system", "user", "assistant")

PATCH_SIZE, MERGE_SIZE = 8, 2
MIN_PIXELS, MAX_PIXELS = 16 * 16 * 4, 16 * 16 * 1024
"""4 to 1,024 visual tokens for each image. A card takes 140 tokens in full and 35 at half its sides; a page 560, 140 at
half of its sides and 35 at a quarter."""

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
"""The template omits system text and the words beside an image that a tool returns, because this policy has learned its
protocol and reads no instructions. It knows one tool only, so offered tools become one token."""


def phrase_tokens() -> tuple[str, ...]:
    """The texts before and after what a question asks for, such as "What is the ", and other fixed sentences."""
    halves = {
        half for question in (*QUESTIONS, WHICH_PAGE, ZOOM_INTO) for half in question.split("{}") if len(half) > 1
    }
    return (*sorted(halves), READ_ALL, " in ", " on ", NUMBERED, ABSENT)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build a tokenizer of about 200 tokens. It spells any printable ASCII text; other characters become `?`."""
    characters = [*string.digits, *string.ascii_letters, *string.punctuation, " ", "\n"]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*SPECIAL, *TAGS, *characters]))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    backend.add_tokens([AddedToken(token, normalized=False) for token in TAGS])
    phrases = [CALL_HEAD, CALL_TAIL, *ROLES, *LABELS, *NEW_LABELS, *SECTIONS, *TITLES]
    phrases += [CALL_IMAGE, CALL_REGION, *map(cell_token, CELLS)]
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
    """Build the untrained model in float32.

    Matrices are drawn from N(0, 1 / fan-in). Those that write into the residual stream have a fifth of that standard
    deviation, and embeddings have 0.05.

    Args:
        tokenizer: The tokenizer of `build_tokenizer`.
        seed: Seed of the weights.
    """
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


def load_weights(model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Load the weights of a policy whose tokenizer may have other tokens. Embeddings of tokens that it lacks stay.

    Args:
        model: A model of `build_model`; changed in place.
        tokenizer: Its tokenizer.
        folder: The policy.

    Raises:
        ValueError: The policy has other shapes.
    """
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    ids = json.loads((folder / "tokenizer.json").read_text())
    known = {**ids["model"]["vocab"], **{token["content"]: token["id"] for token in ids["added_tokens"]}}
    name = "model.language_model.embed_tokens.weight"
    old, embeddings = weights.pop(name).float(), model.model.language_model.embed_tokens.weight.detach().clone()
    if old.shape[1] != embeddings.shape[1]:
        raise ValueError(f"{folder} is no policy of this architecture")
    for token, place in tokenizer.get_vocab().items():
        if token in known:
            embeddings[place] = old[known[token]]
    weights = {key: tensor.float() for key, tensor in weights.items()} | {name: embeddings}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if unexpected or [key for key in missing if key != "lm_head.weight"]:
        raise ValueError(f"{folder} is no policy of this architecture")


def save_policy(model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a checkpoint in half precision that every `from_pretrained` reads.

    Args:
        model: The policy.
        tokenizer: Its tokenizer.
        folder: Folder of the checkpoint; created if it is missing.
    """
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
    """The image processor's settings: pixel values in [-1, 1], sides rounded to multiples of 16 pixels."""
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
