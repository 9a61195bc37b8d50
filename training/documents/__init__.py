"""Renders small documents with known fields: what the bundled policies are trained on and evaluated with."""

from vtagent.training.documents.render import (
    PAGE,
    TRAINING_LOOK,
    WIDE_LOOK,
    Document,
    Glyph,
    Look,
    PrintSize,
    render_document,
    render_strings,
)
from vtagent.training.documents.values import Field, draw_fields, draw_page

__all__ = [
    "PAGE",
    "TRAINING_LOOK",
    "WIDE_LOOK",
    "Document",
    "Field",
    "Glyph",
    "Look",
    "PrintSize",
    "draw_fields",
    "draw_page",
    "render_document",
    "render_strings",
]
