"""The stand-ins bill images as the vendors' published examples do."""

from __future__ import annotations

import math

import pytest

from tests.wire.images import anthropic_tokens, claude_version, gemini_tokens, openai_tokens


@pytest.mark.parametrize(
    ("model", "size", "detail", "tokens"),
    [
        ("gpt-4o", (1024, 1024), "high", 765),
        ("gpt-4o-2024-08-06", (2048, 4096), None, 1105),
        ("gpt-4o", (4096, 8192), "low", 85),
        ("gpt-4o-mini", (512, 512), None, 2833 + 5667),
        ("gpt-5", (1024, 1024), None, 70 + 4 * 140),
        ("gpt-5", (1024, 1024), "low", 70),
        ("gpt-4.1-mini", (1024, 1024), None, math.ceil(1024 * 1.62)),
        ("gpt-4.1-mini", (1800, 2400), None, math.ceil(1452 * 1.62)),
        ("o4-mini", (1024, 1024), None, math.ceil(1024 * 1.72)),
        ("gpt-5-nano", (1024, 1024), None, math.ceil(1024 * 2.46)),
        ("gpt-5.2", (1600, 1600), "high", 3000),
        ("gpt-5.2", (3200, 3200), "original", 12_000),
    ],
)
def test_openai(model: str, size: tuple[int, int], detail: str | None, tokens: int) -> None:
    assert openai_tokens(model, size, detail) == tokens


@pytest.mark.parametrize(
    ("model", "size", "tokens"),
    [
        ("claude-sonnet-4-5", (1092, 1092), 39 * 39),
        ("claude-sonnet-4-5", (200, 200), 8 * 8),
        ("claude-opus-4-7", (1920, 1080), 69 * 39),
    ],
)
def test_anthropic(model: str, size: tuple[int, int], tokens: int) -> None:
    assert anthropic_tokens(model, size) == tokens


@pytest.mark.parametrize(("model", "most"), [("claude-sonnet-4-5-20250929", 1568), ("claude-opus-5", 4784)])
def test_anthropic_shrinks_what_is_large(model: str, most: int) -> None:
    assert 0.97 * most < anthropic_tokens(model, (4000, 3000)) <= most


@pytest.mark.parametrize(
    ("model", "version"),
    [
        ("claude-opus-4-7", (4, 7)),
        ("claude-sonnet-4-5-20250929", (4, 5)),
        ("claude-sonnet-4-20250514", (4, 0)),
        ("claude-3-5-sonnet-20241022", (3, 5)),
        ("claude-opus-5", (5, 0)),
        ("another", (0, 0)),
    ],
)
def test_a_claude_models_version_is_in_its_name(model: str, version: tuple[int, int]) -> None:
    assert claude_version(model) == version


@pytest.mark.parametrize(
    ("major", "size", "resolution", "tokens"),
    [
        (2, (384, 384), None, 258),
        (2, (960, 540), None, 6 * 258),
        (2, (1536, 1536), None, 4 * 258),
        (3, (4000, 3000), None, 1120),
        (3, (4000, 3000), "LOW", 280),
        (3, (20, 20), "ULTRA_HIGH", 2240),
    ],
)
def test_gemini(major: int, size: tuple[int, int], resolution: str | None, tokens: int) -> None:
    assert gemini_tokens(major, size, resolution) == tokens
