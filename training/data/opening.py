"""Opens a sequence of examples by name: rendered pages, files, folders, or data sets of the Hugging Face hub."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from vtagent.errors import DataError
from vtagent.training.data.columns import Columns
from vtagent.training.data.examples import Domain, ExampleSequence, RenderedPages
from vtagent.training.data.files import FileExamples
from vtagent.training.data.mixing import Joined, Part
from vtagent.training.data.tables import open_table

RENDERED: dict[str, Domain] = {"rendered": "training", "rendered-wide": "wide"}
PAGES = 1000
"""Number of rendered pages when no count is given."""

_log = logging.getLogger(__name__)


def open_examples(
    name: str,
    *,
    columns: Sequence[str] = (),
    split: str = "train",
    count: int | None = None,
    seed: int = 0,
) -> ExampleSequence:
    """Open the examples that `name` stands for. Each is read or rendered when it is asked for.

    Bad rows are dropped; one line in the log counts them.

    Args:
        name: "rendered" or "rendered-wide" for pages that are drawn here; a .jsonl or .parquet file; a folder of
            .parquet files or of `Dataset.save_to_disk`; else the id of a data set on the hub. Several names are
            separated by commas and read one after the other. Their ids then begin with the name and "#", because two
            files may use the same ids.
        columns: "NAME=COLUMN" for each column that is not found by its usual names; see `Columns`.
        split: The split of a data set that has several.
        count: Keep the first `count` good examples. By default all rows of a file, and 1,000 rendered pages.
        seed: Seed of rendered pages.

    Returns:
        The examples.

    Raises:
        DataError: `count` is below 1, or the name stands for nothing usable.
    """
    if count is not None and count < 1:
        raise DataError(f"{name}: {count} questions wanted; at least one")
    if name in RENDERED:
        return RenderedPages(count or PAGES, seed=seed, domain=RENDERED[name])
    names = [part.strip() for part in name.split(",")]
    opened = [_open(part, columns, split, count, prefix=f"{part}#" if len(names) > 1 else "") for part in names]
    examples = opened[0] if len(opened) == 1 else Joined(opened)
    return examples if count is None else Part(examples, range(min(count, len(examples))))


def _open(name: str, columns: Sequence[str], split: str, limit: int | None, *, prefix: str) -> FileExamples:
    examples = FileExamples(open_table(name, split=split), Columns.parse(columns), limit=limit, prefix=prefix)
    if examples.dropped:
        _log.warning("%s", examples.summary)
    return examples
