"""The token rules against rows that were measured or published: within one token, or a miss that is named.

`M` rows are what users were billed or were told by a counting endpoint; `D` rows stand in a vendor's documentation.
Text in the same request is taken off where the rows tell how much it is. No row is without its source.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from vtagent.eyes import FAMILIES, Vision, eyes_of
from vtagent.eyes.rules import GptPatches, GptTiles


@dataclass(frozen=True)
class Row:
    """One image: what it was billed, on which model, and who says so."""

    model: str
    size: tuple[int, int]
    tokens: int
    source: str
    trust: str = "M"
    low: bool = False


# A private preview of GPT-4 with vision, billed 70 + 140 as GPT-5 is: "validated by actually calling GPT-4".
# Its row of 1x1025 pixels is left out: the image is thinner than views may be.
KANI = "the tests of kani.ext.vision.engines.openai.img_tokens, found by that name in public code"
KANI_SIZES = {
    (980, 970): 630,
    (554, 536): 630,
    (1054, 356): 490,
    (1920, 1080): 910,
    (512, 512): 210,
    (512, 513): 350,
    (512, 1024): 350,
    (512, 1536): 490,
    (513, 513): 630,
    (4096, 4096): 630,
    (513, 1025): 910,
    (513, 1536): 910,
    (513, 1537): 1190,
}

# 17 tokens of text beside the image: 87 in all with `detail: low`, 367 without.
GPT_5 = "https://community.openai.com/t/clarification-on-token-usage-for-image-inputs/1357218"
# 8 tokens of text beside the image.
GPT_41 = "https://community.openai.com/t/vision-pricing-calculator-inaccurate-resizing-rounding-vs-api-costs/1281361"
GPT_41_SIZES = (
    "https://community.openai.com/t/gpt-4-1-vision-price-calculations-incorrect-billing-on-full-model/1230130"
)
# 12 tokens of text beside the image by both rows of gpt-4o (11 by both of o3); taken for the other models, too.
SMALL = (
    "https://community.openai.com/t/"
    "vision-more-than-one-way-to-send-a-request-undocumented-and-different-pricing-realized/1262691"
)
# The text-only request is subtracted by the author; OpenAI Developer Community, 2026-06-17.
GPT_5_MINI = "https://longform.social/post/did:plc:lk3jfj3zq4k4wxnk474axylu/3moh6hx44k5e2"
# 35 tokens of text beside the image with GPT-4.1 nano as the author says, 30 with GPT-5 nano by his own calculation.
NANO = (
    "https://community.openai.com/t/"
    "gpt-5-mini-image-input-token-calculation-discrepancy-with-official-faq-formula/1344040"
)
GPT_GUIDE = "https://developers.openai.com/api/docs/guides/images-vision (2026-10)"

# count_tokens on 2026-06-13: 8 tokens around the image with Opus 4.8, 10 with Sonnet 4.6, the same at every size.
JACKIN = "https://jackin.tailrocks.com/research/token-optimization/, 50: independent verification pass"
CLAUDE = "https://platform.claude.com/docs/en/build-with-claude/vision, table of sizes (2026-10)"
CLAUDE_SIZES = {  # size: (standard tier, high-resolution tier)
    (200, 200): (64, 64),
    (1000, 1000): (1296, 1296),
    (1092, 1092): (1521, 1521),
    (1920, 1080): (1560, 2691),
    (2000, 1500): (1564, 3888),
    (3840, 2160): (1560, 4784),
}

# gemini-3.6-flash, 2026-07; the tokens of the image are told apart in the usage.
PXPIPE = "github.com/teamchong/pxpipe, eval/gemini-profile/GEMINI_VISION_RESEARCH.md"
GEMINI_SIZES = {
    (100, 100): 1089,
    (256, 256): 1089,
    (512, 512): 1089,
    (1024, 1024): 1089,
    (2048, 2048): 1089,
    (1568, 728): 1078,
    (768, 1932): 1113,
    (768, 512): 1080,
    (1920, 1080): 1100,
    (2048, 512): 1056,
    (512, 2048): 1056,
    (4096, 512): 1034,
}

ROWS = [
    *(Row("gpt-5", size, tokens, KANI) for size, tokens in KANI_SIZES.items()),
    Row("gpt-5", (512, 513), 367 - 17, GPT_5),
    Row("gpt-5", (512, 513), 87 - 17, GPT_5, low=True),
    Row("gpt-4.1", (2049, 513), 1453 - 8, GPT_41),
    Row("gpt-4.1", (2050, 513), 773 - 8, GPT_41),
    Row("gpt-4.1", (1800, 2400), 773 - 8, GPT_41_SIZES),
    Row("gpt-4.1", (1024, 1024), 773 - 8, GPT_41_SIZES),
    Row("gpt-4o", (128, 64), 267 - 12, SMALL),
    Row("gpt-4o", (128, 64), 97 - 12, SMALL, low=True),
    Row("gpt-4o-mini", (128, 64), 8512 - 12, SMALL),
    Row("gpt-4o-mini", (128, 64), 2845 - 12, SMALL, low=True),
    Row("o3", (128, 64), 236 - 11, SMALL),
    Row("o3", (128, 64), 86 - 11, SMALL, low=True),
    Row("gpt-4.1-mini", (128, 64), 26 - 12, SMALL),
    Row("gpt-4.1-nano", (128, 64), 33 - 12, SMALL),
    Row("o4-mini", (128, 64), 26 - 12, SMALL),
    Row("gpt-4.1-mini", (4000, 1474), 2488, GPT_41),
    Row("gpt-5-mini", (256, 256), 77, GPT_5_MINI),
    Row("gpt-5-mini", (512, 512), 308, GPT_5_MINI),
    Row("gpt-5-mini", (768, 1024), 922, GPT_5_MINI),
    Row("gpt-5-mini", (1280, 720), 1104, GPT_5_MINI),
    Row("gpt-5-mini", (1024, 1024), 1229, GPT_5_MINI),
    Row("gpt-5-mini", (2048, 768), 1844, GPT_5_MINI),
    Row("gpt-5-nano", (1800, 1200), 2334 - 30, NANO),
    Row("gpt-4.1-nano", (1800, 1200), 3814 - 35, NANO),
    Row("gpt-5.4", (1024, 1024), 1229, GPT_GUIDE, "D"),
    Row("gpt-5.4", (2048, 2048), 3000, GPT_GUIDE, "D"),
    Row("gpt-6-astra", (4096, 512), 2458, GPT_GUIDE, "D"),
    Row("claude-opus-4-8", (280, 280), 108 - 8, JACKIN),
    Row("claude-opus-4-8", (1000, 1000), 1304 - 8, JACKIN),
    Row("claude-opus-4-8", (2000, 2000), 4769 - 8, JACKIN),
    Row("claude-sonnet-4-6", (1000, 1000), 1306 - 10, JACKIN),
    Row("claude-sonnet-4-6", (2000, 2000), 1531 - 10, JACKIN),
    *(Row("claude-sonnet-4-6", size, tokens, CLAUDE, "D") for size, (tokens, _) in CLAUDE_SIZES.items()),
    *(Row("claude-opus-4-8", size, tokens, CLAUDE, "D") for size, (_, tokens) in CLAUDE_SIZES.items()),
    *(Row("gemini-3.6-flash", size, tokens, PXPIPE) for size, tokens in GEMINI_SIZES.items()),
]

# What a rule does not give, and why. Each is a row that would otherwise stand above.
MISSES = {
    Row("gpt-4.1-mini", (2400, 1800), 2362 - 10, GPT_41_SIZES): (
        "measured in April 2025, when the budget was 1,536 squares; the guide of 2026-10 says 6,144"
    ),
    Row("o1", (128, 64), 44 - 11, SMALL): "o1 was billed 11 and 33 where its vendor's table says 75 and 225",
}


def billed(row: Row) -> int:
    return eyes_of(row.model).vision.tokens(*row.size, low=row.low)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.model} {row.size[0]}x{row.size[1]} {row.trust}")
def test_a_row_is_met_within_one_token(row: Row) -> None:
    assert row.source
    assert abs(billed(row) - row.tokens) <= 1


@pytest.mark.parametrize("row", MISSES, ids=lambda row: f"{row.model} {row.size[0]}x{row.size[1]}")
def test_a_named_miss_is_still_a_miss(row: Row) -> None:
    assert abs(billed(row) - row.tokens) > 1


def test_the_row_of_the_older_budget_is_met_by_the_older_budget() -> None:
    [row] = [row for row in MISSES if row.model == "gpt-4.1-mini"]
    assert abs(GptPatches(1.62, 1536, 2048).tokens(*row.size) - row.tokens) <= 1


def test_ten_sizes_are_measured_for_gpt_and_for_gemini() -> None:
    for model in ("gpt-5", "gemini-3.6-flash"):
        assert len({row.size for row in ROWS if row.model == model and row.trust == "M" and not row.low}) >= 10


def test_claude_has_three_measured_sizes_and_six_published_ones() -> None:
    claude = [row for row in ROWS if row.model.startswith("claude")]
    assert len({row.size for row in claude if row.trust == "M"}) == 3  # no more were found with a source
    assert len({row.size for row in claude}) == 8


def test_the_rule_of_the_private_preview_is_that_of_gpt_5() -> None:
    [gpt_5] = [family.vision for family in FAMILIES if family.name == "GPT-5, 5.1"]
    assert gpt_5 == GptTiles(70, 140)
    assert isinstance(gpt_5, Vision)
