"""`LessonPage`: one row of a batch: the views of a conversation, the glyphs of the last one and the packed text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from vtagent.training.documents import Glyph
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


def half(image: Image.Image) -> Image.Image:
    """The image at half its sides, resampled as `vtagent.views` does it."""
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)
