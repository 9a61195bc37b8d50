"""Questions about images with their gold answers, and where they come from."""

from vtagent.training.data.columns import Columns
from vtagent.training.data.examples import Domain, Example, RenderedPages, read_jsonl, rendered
from vtagent.training.data.files import FileExamples
from vtagent.training.data.mixing import Mixture, Part, by_source
from vtagent.training.data.opening import open_examples
from vtagent.training.data.tables import ArrowTable, Rows, Table, open_table

__all__ = [
    "ArrowTable",
    "Columns",
    "Domain",
    "Example",
    "FileExamples",
    "Mixture",
    "Part",
    "RenderedPages",
    "Rows",
    "Table",
    "by_source",
    "open_examples",
    "open_table",
    "read_jsonl",
    "rendered",
]
