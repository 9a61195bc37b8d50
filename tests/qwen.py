"""Qwen's own surroundings: the real tokenizer with its added tokens, and templates that behave as the stock ones.

The merges are those that the package `dashscope` ships; the added tokens and their ids are those of the checkpoints'
`tokenizer_config.json`. The templates are written for these tests: they lay out a conversation as the stock templates
do, token for token outside of the instructions about tools.
"""

from __future__ import annotations

import base64
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import dashscope
from transformers import AddedToken
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer

from tests.checkpoints import FamilyName, make_processor
from vtagent.models.families import FAMILIES, chat_template
from vtagent.models.processor import VLProcessor

Variant = Literal["Qwen2.5-VL", "Qwen3-VL", "Qwen3-VL-Thinking"]
VARIANTS: tuple[Variant, ...] = ("Qwen2.5-VL", "Qwen3-VL", "Qwen3-VL-Thinking")

_CONTROL = """
    <|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|>
    <|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|>
"""
_WORDS = "<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|>"
_QWEN3_WORDS = "<tool_response> </tool_response> <think> </think>"


def family_of(variant: Variant) -> FamilyName:
    """The family of a variant."""
    return "qwen2_5_vl" if variant == "Qwen2.5-VL" else "qwen3_vl"


@cache
def ranks() -> dict[bytes, int]:
    """Qwen's byte-level tokens with their ids, which are also the order of the merges."""
    lines = (Path(dashscope.__file__).parent / "resources" / "qwen.tiktoken").read_bytes().splitlines()
    return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}


@cache
def _vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The tokens and merges in the form of Hugging Face's files."""
    letters, known = bytes_to_unicode(), ranks()

    def written(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    merges = [
        (written(left), written(right))
        for token in sorted(known, key=known.__getitem__)
        if len(token) > 1
        for left, right in [_merge_of(token, known)]
    ]
    return {written(token): rank for token, rank in known.items()}, merges


def _merge_of(token: bytes, known: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two tokens that this one is merged from: what earlier merges make of its bytes."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        pairs = [known.get(left + right, len(known)) for left, right in pairwise(parts)]
        at = min(range(len(pairs)), key=pairs.__getitem__)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]


def qwen_tokenizer(variant: Variant) -> Qwen2Tokenizer:
    """The tokenizer of a stock checkpoint."""
    vocabulary, merges = _vocabulary()
    pairs: Any = list(merges)
    tokenizer = Qwen2Tokenizer(vocab=dict(vocabulary), merges=pairs)  # it adds <|endoftext|>
    words = (_WORDS if variant == "Qwen2.5-VL" else f"{_WORDS} {_QWEN3_WORDS}").split()
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in _CONTROL.split()[1:]])
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in words])
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.pad_token = "<|endoftext|>"
    return tokenizer


_BODY = """
{%- macro body(content) -%}
  {%- if content is string -%}{{- content -}}
  {%- else -%}
    {%- for part in content or [] -%}
      {%- if part.type == 'image' or 'image' in part -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
      {%- elif 'text' in part -%}{{- part.text -}}{%- endif -%}
    {%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
"""

_QWEN2_5_VL = (
    _BODY
    + """
{%- for message in messages -%}
  {%- if loop.first and message.role != 'system' -%}
    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
  {%- endif -%}
  {{- '<|im_start|>' + message.role + '\\n' + body(message.content) + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
)
"""It knows no tools: a result is a turn of the role "tool", and calls are left out."""

_QWEN3_VL = (
    _BODY
    + """
{%- set first = messages[0] -%}
{%- if tools -%}
  {{- '<|im_start|>system\\n' -}}
  {%- if first.role == 'system' -%}{{- body(first.content) + '\\n\\n' -}}{%- endif -%}
  {{- '# Tools\\n\\nFunctions, one signature a line:\\n<tools>' -}}
  {%- for tool in tools -%}{{- '\\n' + (tool | tojson) -}}{%- endfor -%}
  {{- '\\n</tools>\\n\\nA call is a JSON object:\\n' -}}
  {{- '<tool_call>\\n{"name": <name>, "arguments": <object>}\\n</tool_call>' -}}
  {{- '<|im_end|>\\n' -}}
{%- elif first.role == 'system' -%}
  {{- '<|im_start|>system\\n' + body(first.content) + '<|im_end|>\\n' -}}
{%- endif -%}
{%- set last = namespace(query=messages | length - 1, found=false) -%}
{%- for message in messages[::-1] -%}
  {%- if message.role == 'user' and not last.found -%}
    {%- set last.found = true -%}
    {%- set last.query = messages | length - 1 - loop.index0 -%}
  {%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
  {%- if message.role == 'user' or (message.role == 'system' and not loop.first) -%}
    {{- '<|im_start|>' + message.role + '\\n' + body(message.content) + '<|im_end|>\\n' -}}
  {%- elif message.role == 'assistant' -%}
    {%- set said = namespace(text=body(message.content), thought='') -%}
    {%- if THINKING and '</think>' in said.text -%}
      {%- set said.thought = said.text.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') -%}
      {%- set said.text = said.text.split('</think>')[-1].lstrip('\\n') -%}
    {%- endif -%}
    {{- '<|im_start|>assistant\\n' -}}
    {%- if THINKING and loop.index0 > last.query and (loop.last or said.thought) -%}
      {{- '<think>\\n' + said.thought.strip('\\n') + '\\n</think>\\n\\n' + said.text.lstrip('\\n') -}}
    {%- else -%}
      {{- said.text -}}
    {%- endif -%}
    {%- for call in message.tool_calls or [] -%}
      {%- if not loop.first or said.text -%}{{- '\\n' -}}{%- endif -%}
      {{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' -}}
      {{- call.function.arguments if call.function.arguments is string else call.function.arguments | tojson -}}
      {{- '}\\n</tool_call>' -}}
    {%- endfor -%}
    {{- '<|im_end|>\\n' -}}
  {%- elif message.role == 'tool' -%}
    {%- if loop.first or messages[loop.index0 - 1].role != 'tool' -%}{{- '<|im_start|>user' -}}{%- endif -%}
    {{- '\\n<tool_response>\\n' + body(message.content) + '\\n</tool_response>' -}}
    {%- if loop.last or messages[loop.index0 + 1].role != 'tool' -%}{{- '<|im_end|>\\n' -}}{%- endif -%}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|im_start|>assistant\\n' -}}
  {%- if THINKING -%}{{- '<think>\\n' -}}{%- endif -%}
{%- endif -%}
"""
)

STOCK: dict[Variant, str] = {
    "Qwen2.5-VL": _QWEN2_5_VL,
    "Qwen3-VL": "{%- set THINKING = false -%}" + _QWEN3_VL,
    "Qwen3-VL-Thinking": "{%- set THINKING = true -%}" + _QWEN3_VL,
}
"""Templates that behave as the stock ones."""


def qwen_processor(variant: Variant) -> VLProcessor:
    """The processor of a stock checkpoint as it is loaded: with its own template, or ours if that knows no tools."""
    tokenizer = qwen_tokenizer(variant)
    template = chat_template(STOCK[variant], tokenizer, FAMILIES[family_of(variant)])
    return VLProcessor(make_processor(family_of(variant)).image_processor, tokenizer, chat_template=template)
