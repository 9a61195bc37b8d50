"""Questions about images with gold answers: from rendered pages, files and data sets; selected, joined and mixed."""

from typing import TYPE_CHECKING

from vtagent._moved import renamed
from vtagent.training.data.columns import Columns
from vtagent.training.data.drawn import DRAWN, Drawn, SectionPages, section_pages
from vtagent.training.data.examples import Domain, Example, ExampleSequence, RenderedPages, rendered
from vtagent.training.data.files import FileExamples, open_examples
from vtagent.training.data.mixing import Joined, Mixture, Part, by_source, held_out, mixed
from vtagent.training.data.tables import ArrowTable, MemoryTable, Table, open_table

__all__ = [
    "DRAWN",
    "ArrowTable",
    "Columns",
    "Domain",
    "Drawn",
    "Example",
    "ExampleSequence",
    "FileExamples",
    "Joined",
    "MemoryTable",
    "Mixture",
    "Part",
    "RenderedPages",
    "SectionPages",
    "Table",
    "by_source",
    "held_out",
    "mixed",
    "open_examples",
    "open_table",
    "rendered",
    "section_pages",
]

if not TYPE_CHECKING:  # type checkers must not accept every name

    def __getattr__(name: str) -> object:
        return renamed(__name__, name)
