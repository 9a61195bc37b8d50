"""Renders documents with known fields: what the bundled policies are trained on and evaluated with.

`render_document` renders cards of 224 × 160 pixels, the first edition of the domain. `render_page` renders pages of
448 × 320 pixels with sections, the second edition.
"""

from vtagent.abstention import ABSENT
from vtagent.training.documents.pages import (
    CELLS,
    PAGE,
    Cell,
    Page,
    PageQuestion,
    Section,
    cell_pixels,
    render_page,
    thumbnail,
    with_title,
)
from vtagent.training.documents.render import (
    CARD,
    TRAINING_LOOK,
    WIDE_LOOK,
    Document,
    Glyph,
    Look,
    PrintSize,
    render_document,
    render_strings,
)
from vtagent.training.documents.sections import Asked
from vtagent.training.documents.values import Field, draw_fields, draw_page

__all__ = [
    "ABSENT",
    "CARD",
    "CELLS",
    "PAGE",
    "TRAINING_LOOK",
    "WIDE_LOOK",
    "Asked",
    "Cell",
    "Document",
    "Field",
    "Glyph",
    "Look",
    "Page",
    "PageQuestion",
    "PrintSize",
    "Section",
    "cell_pixels",
    "draw_fields",
    "draw_page",
    "render_document",
    "render_page",
    "render_strings",
    "thumbnail",
    "with_title",
]
