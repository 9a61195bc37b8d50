"""The table of models, by name: the numbers of each family with their sources. A change is an edit of one line.

The first family whose pattern is found in a name applies, so that "gpt-4o-mini" stands before "gpt-4o".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from vtagent.eyes.facts import Boxes, Dialect, Fact, LowSetting
from vtagent.eyes.rules import ClaudePatches, Gemini2Tiles, Gemini3Grid, GptPatches, GptTiles
from vtagent.eyes.vision import Vision
from vtagent.visual_tokens import QWEN2_5_VL, QWEN3_VL

__all__ = ["FAMILIES", "KnownFamily", "family_of"]

DETAIL_LOW = LowSetting("detail", "low", inside="image_url")
MEDIA_RESOLUTION_LOW = LowSetting("media_resolution", "MEDIA_RESOLUTION_LOW")


@dataclass(frozen=True)
class KnownFamily:
    """Models that see alike.

    Attributes:
        name: Of the rule.
        pattern: Found in the names of its models, in lower case.
        example: The name of one of them.
        vision: What an image costs.
        wire: The API that is assumed where only the name is known.
        boxes: How they write a box.
        dialect: The zoom tool that they are offered.
        low_setting: What a low view carries where the API takes it.
        facts: With their sources.
    """

    name: str
    pattern: str
    example: str
    vision: Vision
    wire: str
    facts: tuple[Fact, ...]
    boxes: Boxes = "thousandths"
    dialect: Dialect = "zoom_image"
    low_setting: LowSetting | None = None


def family_of(model: str) -> KnownFamily | None:
    """The family of a model by its name, with or without a provider's prefix; None where it is unknown.

    Args:
        model: Such as "gpt-4o", "qwen2.5vl:7b" or "us.anthropic.claude-sonnet-4-5-20250929-v1:0".
    """
    return _family_of(model.lower())


@lru_cache(maxsize=1024)
def _family_of(model: str) -> KnownFamily | None:
    return next((family for family in FAMILIES if re.search(family.pattern, model)), None)


_GPT_GUIDE = "https://developers.openai.com/api/docs/guides/images-vision"
_GPT_2025 = "https://platform.openai.com/docs/guides/images-vision"
_CLAUDE_VISION = "https://platform.claude.com/docs/en/build-with-claude/vision"
_CLAUDE_BOXES = "https://platform.claude.com/docs/en/build-with-claude/vision-coordinates"
_GEMINI_MEDIA = "https://ai.google.dev/gemini-api/docs/media-resolution"
_GEMINI_TOKENS = "https://ai.google.dev/gemini-api/docs/tokens"

_GPT_BOXES = Fact("no trained convention for boxes; 0-1000 is asked for in the prompt", "assumed", "2026-11", "?")


def _tiles(base: int, tile: int) -> tuple[Fact, ...]:
    return (
        Fact(f"fit into 2,048², short side to 768 px, {base} + {tile} per 512-px tile", _GPT_GUIDE, "2026-10", "D"),
        Fact(f"`detail: low` costs {base}, whatever the size", _GPT_GUIDE, "2026-10", "D"),
        _GPT_BOXES,
    )


def _patches(rule: GptPatches, source: str, date: str, *more: Fact) -> tuple[Fact, ...]:
    return (
        Fact(
            f"squares of 32 px x {rule.multiplier:g}, at most {rule.budget:,} squares and {rule.max_edge:,} px a side",
            source,
            date,
            "D",
        ),
        Fact("`detail: low` does not always cost less: low views save by their pixels", _GPT_GUIDE, "2026-10", "D"),
        *more,
        _GPT_BOXES,
    )


_MINI_2025 = GptPatches(1.2, 1536, 2048)
_NANO_2025 = GptPatches(1.5, 1536, 2048)
_O4_MINI = GptPatches(1.72, 1536, 2048)
_GPT_41_MINI = GptPatches(1.62, 6144, 2048)
_GPT_41_NANO = GptPatches(2.46, 1536, 2048)
_GPT_52 = GptPatches(1.2, 6144, 2048)
_GPT_54 = GptPatches(1.2, 2500, 2048)
_GPT_55 = GptPatches(1.2, 10_000, 6000)
_GPT_56 = GptPatches(1.2, 30_000, 65_535)

_OLD_BUDGET = Fact(
    "no longer in the vendor's size table; the budget is that of an earlier version of it", _GPT_GUIDE, "2026-10", "?"
)

_CLAUDE_FACTS = (
    Fact("⌈w/28⌉ · ⌈h/28⌉ tokens after shrinking", _CLAUDE_BOXES, "2026-10", "D"),
    Fact(
        "the same, by count_tokens on sizes of 280² to 2,000²",
        "https://jackin.tailrocks.com/research/token-optimization/",
        "2026-06-13",
        "M",
    ),
    Fact("boxes are pixels of the image as Claude sees it; 0-1000 works badly", _CLAUDE_BOXES, "2026-10", "D"),
)

_QWEN_GRID = "transformers, image processors of Qwen2-VL (held equal by tests/test_visual_tokens.py)"

FAMILIES: tuple[KnownFamily, ...] = (
    KnownFamily(
        "GPT-4o mini",
        r"gpt-?4o-mini",
        "gpt-4o-mini",
        GptTiles(2833, 5667),
        "chat completions",
        _tiles(2833, 5667),
        low_setting=DETAIL_LOW,
    ),
    KnownFamily(
        "GPT-4.1 mini",
        r"gpt-4\.1-mini",
        "gpt-4.1-mini",
        _GPT_41_MINI,
        "chat completions",
        _patches(
            _GPT_41_MINI,
            _GPT_GUIDE,
            "2026-10",
            Fact("in an earlier version of the page the budget is 1,536 squares", _GPT_2025, "2025-05", "D"),
        ),
    ),
    KnownFamily(
        "GPT-4.1 nano",
        r"gpt-4\.1-nano",
        "gpt-4.1-nano",
        _GPT_41_NANO,
        "chat completions",
        _patches(_GPT_41_NANO, _GPT_2025, "2025-05", _OLD_BUDGET),
    ),
    KnownFamily(
        "GPT-4o, 4.1, 4.5",
        r"gpt-?4o|gpt-4\.[15]|gpt-4-(turbo|vision)",
        "gpt-4o",
        GptTiles(85, 170),
        "chat completions",
        _tiles(85, 170),
        low_setting=DETAIL_LOW,
    ),
    KnownFamily(
        "o4-mini",
        r"(?<![a-z0-9-])o4-mini|(?<![a-z0-9.-])codex-mini",
        "o4-mini",
        _O4_MINI,
        "chat completions",
        _patches(_O4_MINI, _GPT_2025, "2025-05", _OLD_BUDGET),
    ),
    KnownFamily(
        "o1, o3",
        r"(?<![a-z0-9-])o[13](?![a-z0-9.])",
        "o3",
        GptTiles(75, 150),
        "chat completions",
        _tiles(75, 150),
        low_setting=DETAIL_LOW,
    ),
    KnownFamily(
        "Computer use (OpenAI)",
        r"computer-use-preview",
        "computer-use-preview",
        GptTiles(65, 129),
        "responses",
        (
            Fact("65 + 129 per 512-px tile, sized as for GPT-4o", _GPT_GUIDE, "2026-06", "D"),
            _GPT_BOXES,
        ),
        low_setting=DETAIL_LOW,
    ),
    KnownFamily(
        "GPT-5 nano",
        r"gpt-5-nano",
        "gpt-5-nano",
        _NANO_2025,
        "chat completions",
        _patches(
            _NANO_2025,
            _GPT_GUIDE,
            "2026-10",
            _OLD_BUDGET,
            Fact("an earlier version of the page said x 2.46; billed was 1.5", _GPT_GUIDE, "2026-06", "M"),
        ),
    ),
    KnownFamily(
        "GPT-5 mini",
        r"gpt-5(\.1)?-(codex-)?mini",
        "gpt-5-mini",
        _MINI_2025,
        "chat completions",
        _patches(
            _MINI_2025,
            _GPT_GUIDE,
            "2026-10",
            _OLD_BUDGET,
            Fact("an earlier version of the page said x 1.62; billed was 1.2", _GPT_GUIDE, "2026-06", "M"),
        ),
    ),
    KnownFamily(
        "GPT-5, 5.1",
        r"gpt-5(?![\d.])|gpt-5\.1",
        "gpt-5",
        GptTiles(70, 140),
        "chat completions",
        _tiles(70, 140),
        low_setting=DETAIL_LOW,
    ),
    KnownFamily(
        "GPT-5.2, 5.3",
        r"gpt-5\.[23](?!\d)",
        "gpt-5.2",
        _GPT_52,
        "chat completions",
        _patches(
            _GPT_52,
            _GPT_GUIDE,
            "2026-10",
            Fact("in an earlier version of the page the budget is 1,536 squares", _GPT_GUIDE, "2026-06", "D"),
        ),
    ),
    KnownFamily(
        "GPT-5.4",
        r"gpt-5\.4(?!\d)",
        "gpt-5.4",
        _GPT_54,
        "chat completions",
        _patches(
            _GPT_54,
            _GPT_GUIDE,
            "2026-10",
            Fact("without `detail` (auto) as `high`; `original` takes 10,000 squares", _GPT_GUIDE, "2026-10", "D"),
        ),
    ),
    KnownFamily(
        "GPT-5.5",
        r"gpt-5\.5(?!\d)",
        "gpt-5.5",
        _GPT_55,
        "chat completions",
        _patches(
            _GPT_55,
            _GPT_GUIDE,
            "2026-10",
            Fact("without `detail` (auto) as `original`; `high` takes 2,500 squares", _GPT_GUIDE, "2026-10", "D"),
        ),
    ),
    KnownFamily(
        "GPT-5.6 and later",
        r"gpt-5\.([6-9]|\d\d)|gpt-([6-9]|[1-9]\d)(?!\d)",
        "gpt-5.6-terra",
        _GPT_56,
        "chat completions",
        _patches(
            _GPT_56,
            _GPT_GUIDE,
            "2026-10",
            Fact("not shrunk without `detail`; more than 30,000 squares are refused", _GPT_GUIDE, "2026-10", "D"),
            Fact("models after gpt-6-astra are taken to be like it", "assumed", "2026-11", "?"),
        ),
    ),
    KnownFamily(
        "Claude, high resolution",
        r"claude-[a-z]+-(4[.-]([7-9]|\d\d)|[5-9]|\d\d)(?!\d)",
        "claude-opus-4-7",
        ClaudePatches(2576, 4784),
        "anthropic",
        (
            Fact("Claude 4.7 and later: at most 2,576 px a side and 4,784 tokens", _CLAUDE_VISION, "2026-10", "D"),
            *_CLAUDE_FACTS,
        ),
        boxes="pixels as shown",
    ),
    KnownFamily(
        "Claude, standard",
        r"claude",
        "claude-sonnet-4-5",
        ClaudePatches(1568, 1568),
        "anthropic",
        (
            Fact("before Claude 4.7: at most 1,568 px a side and 1,568 tokens", _CLAUDE_VISION, "2026-10", "D"),
            *_CLAUDE_FACTS,
        ),
        boxes="pixels as shown",
    ),
    KnownFamily(
        "Gemini 3 and later",
        r"gemini-([3-9]|[1-9]\d)(?!\d)",
        "gemini-3-pro-preview",
        Gemini3Grid(),
        "gemini",
        (
            Fact(
                "by media_resolution: low 280, medium 560, high 1,120 (default) at most", _GEMINI_MEDIA, "2026-10", "D"
            ),
            Fact(
                "a grid of the image's shape within that: all of 12 sizes exactly",
                "github.com/teamchong/pxpipe, eval/gemini-profile/GEMINI_VISION_RESEARCH.md (gemini-3.6-flash)",
                "2026-07",
                "M",
            ),
            Fact("the low setting fills its 280 in the same way; a token shows 48 px", "assumed", "2026-11", "?"),
            Fact("boxes are 0-1000, y first", "Gemini API documentation, image understanding", "2026-11", "D"),
        ),
        boxes="thousandths, y first",
        low_setting=MEDIA_RESOLUTION_LOW,
    ),
    KnownFamily(
        "Gemini 2",
        r"gemini-[12](?!\d)",
        "gemini-2.5-flash",
        Gemini2Tiles(),
        "gemini",
        (
            Fact("258 up to 384², else 258 per 768-px tile", _GEMINI_TOKENS, "2026-11", "D"),
            Fact("no setting per image: the API takes one per request", _GEMINI_MEDIA, "2026-10", "D"),
            Fact("boxes are 0-1000, y first", "Gemini API documentation, image understanding", "2026-11", "D"),
        ),
        boxes="thousandths, y first",
    ),
    KnownFamily(
        "Qwen2.5-VL",
        r"qwen-?_?2[._]5-?_?vl",
        "qwen2.5vl:7b",
        QWEN2_5_VL,
        "chat completions",
        (
            Fact("one token per 28 x 28 px, 4 to 16,384 of them", _QWEN_GRID, "2026-11", "D"),
            Fact("boxes are pixels of the image as it is shown, after its resize", "Qwen2.5-VL report", "2026-11", "D"),
        ),
        boxes="pixels as shown",
    ),
    KnownFamily(
        "Qwen3-VL",
        r"qwen-?_?3([._]\d)?(-?_?vl|[._]5|[._][6-9])",
        "qwen3-vl:8b",
        QWEN3_VL,
        "chat completions",
        (
            Fact("one token per 32 x 32 px, 64 to 16,384 of them", _QWEN_GRID, "2026-11", "D"),
            Fact("boxes are 0-1000; image_zoom_in_tool(bbox_2d, label, img_idx)", "Qwen3-VL cookbooks", "2026-11", "D"),
            Fact("Qwen3.5 and later are taken to be like it", "assumed", "2026-11", "?"),
        ),
        dialect="image_zoom_in_tool",
    ),
)
"""Every known family; of those whose pattern is found in a name, the first one applies."""
