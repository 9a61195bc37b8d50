"""`LessonPage`: one row of a batch: the views of a conversation, the glyphs of the last one and the packed text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from vtagent.training.documents import Cell, Glyph, Page
from vtagent.training.pretraining.packing import PackedSequence


@dataclass(frozen=True)
class LessonPage:
    """One row of a batch."""

    views: Sequence[Image.Image]
    """In the order of the conversation."""
    glyphs: Sequence[Glyph]
    """Those of the last view, in its pixels; empty if they are too small to be read."""
    packed: PackedSequence
    sections: Sequence[int] | None = None
    """The kind of section of each visual token of the last view (`Page.sections_in`); None: not learned."""
    labels: Sequence[str | None] | None = None
    """The label of the field that each of the glyphs belongs to, None outside of fields; None: not learned."""


def of_page(
    views: Sequence[Image.Image],
    packed: PackedSequence,
    page: Page,
    *,
    cell: Cell | None = None,
    scale: float = 1.0,
    sections: tuple[int, int] | None = None,
) -> LessonPage:
    """A row whose last view shows a page with sections.

    Args:
        views: The views, in the order of the conversation.
        packed: The conversation.
        page: The page.
        cell: What the last view shows; None: the page.
        scale: The sides of the last view in relation to those of what it shows.
        sections: Visual tokens of the last view in a row and in a column, where their sections are learned.
    """
    shown = page.print_in(cell, scale=scale)
    glyphs, labels = [glyph for glyph, _ in shown], [label for _, label in shown]
    return LessonPage(views, glyphs, packed, page.sections_in(sections) if sections else None, labels)


def half(image: Image.Image) -> Image.Image:
    """The image at half its sides, resampled as `vtagent.views` does it."""
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)
