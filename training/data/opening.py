"""One name, one sequence of questions: rendered pages, a file, a folder, or a data set of the hub."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from vtagent.errors import DataError
from vtagent.training.data.columns import Columns
from vtagent.training.data.examples import Domain, Example, RenderedPages
from vtagent.training.data.files import FileExamples
from vtagent.training.data.mixing import Joined, Part
from vtagent.training.data.tables import open_table

RENDERED: dict[str, Domain] = {"rendered": "training", "rendered-wide": "wide"}
PAGES = 1000

_log = logging.getLogger(__name__)


def open_examples(
    name: str,
    *,
    columns: Sequence[str] = (),
    split: str = "train",
    count: int | None = None,
    seed: int = 0,
) -> Sequence[Example]:
    """The questions that `name` stands for; each is read or rendered when asked for.

    Args:
        name: "rendered" or "rendered-wide" for pages drawn by us; a .jsonl or .parquet file, or a folder of .parquet
            files or of `Dataset.save_to_disk`; else a data set's id on the hub. Several, with commas between them, are
            one after the other; their rows' ids then begin with the name and "#", as two files may use the same ids.
        columns: "NAME=COLUMN" for each column that is not found by itself; see `Columns`.
        split: Which part of a data set that has several.
        count: At most so many, the first good ones; by default all of a file and 1,000 rendered pages.
        seed: Of rendered pages.

    Raises:
        DataError: Nothing usable there. Single bad rows are dropped, with one line in the log that counts them.
    """
    if count is not None and count < 1:
        raise DataError(f"{name}: {count} questions wanted; at least one")
    if name in RENDERED:
        return RenderedPages(count or PAGES, seed=seed, domain=RENDERED[name])
    names = [part.strip() for part in name.split(",")]
    opened = [_opened(part, columns, split, count, prefix=f"{part}#" if len(names) > 1 else "") for part in names]
    examples = opened[0] if len(opened) == 1 else Joined(opened)
    return examples if count is None else Part(examples, range(min(count, len(examples))))


def _opened(name: str, columns: Sequence[str], split: str, limit: int | None, *, prefix: str) -> FileExamples:
    examples = FileExamples(open_table(name, split=split), Columns.parse(columns), limit=limit, prefix=prefix)
    if examples.dropped:
        _log.warning("%s", examples.summary)
    return examples
