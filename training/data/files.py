"""Examples from the rows of tables, and `open_examples`, which opens examples of any kind by name.

Bad rows are dropped and counted at once; images are read when they are needed.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from typing import Any

from vtagent.errors import DataError, ImageError, RegionError
from vtagent.images import decode
from vtagent.training.data.columns import Columns, box, is_missing, texts, value_at
from vtagent.training.data.drawn import DRAWN
from vtagent.training.data.examples import Example, ExampleSequence, digest_of_images
from vtagent.training.data.image_bytes import LIMITS, images_bytes, resized
from vtagent.training.data.mixing import Joined, Part
from vtagent.training.data.tables import Table, open_table

PAGES = 1000
"""Number of rendered pages when no count is given."""

_log = logging.getLogger(__name__)

_PLACEHOLDER = "<image>"
_CHUNK = 500
"""Rows that are checked between two reports of progress."""


class FileExamples(ExampleSequence):
    """The good rows of a table, in its order.

    Args:
        table: The table.
        columns: Paths of the columns; a column without a path is searched for under its usual names.
        limit: Stop checking after this many good rows.
        prefix: Put before every example's id, so that the ids of several tables differ.

    Raises:
        DataError: A column is missing, two rows have one id, or no row is good.

    Attributes:
        kept: The numbers of the good rows.
        dropped: The number of rows that were dropped, by reason: "an empty question", "an empty answer", "an
            unreadable image", "an unusable value box".
    """

    def __init__(
        self,
        table: Table,
        columns: Columns | None = None,
        *,
        limit: int | None = None,
        prefix: str = "",
    ) -> None:
        self.table = table
        self.columns = (columns or Columns()).found_in(table.columns, where=table.name)
        self._refuse_paths_to_nowhere(columns or Columns())
        self.prefix = prefix
        self.dropped: Counter[str] = Counter()
        self._first: dict[str, str] = {}
        self._pages: dict[int, str] = {}
        self.kept = self._good_rows(limit)
        if not self.kept:
            raise DataError(f"no usable row: {self.summary}")
        names = self.columns.tops("source", "id")
        heads = [self.table.row(number, names) for number in self.kept] if names else [{} for _ in self.kept]
        self._sources = [self._source(value_at(head, self.columns.source)) for head in heads]
        ids = [value_at(head, self.columns.id) for head in heads]
        self._ids = ["" if id_ is None else str(id_) for id_ in ids]
        self._refuse_equal_ids()

    @property
    def sources(self) -> list[str]:
        """The source of each good row, known without reading its image."""
        return self._sources

    @property
    def pages(self) -> list[str]:
        """See `ExampleSequence.pages`; known since the images were checked."""
        return [self._pages[number] for number in self.kept]

    @property
    def summary(self) -> str:
        """One line that counts the good rows and the dropped ones."""
        line = f"{self.table.name}: {len(self.kept)} of {len(self.table)} rows"
        reasons = [f"{count} with {reason} ({self._first[reason]})" for reason, count in self.dropped.items()]
        return f"{line}; dropped {', '.join(reasons)}" if reasons else line

    def __len__(self) -> int:
        return len(self.kept)

    def at(self, index: int) -> Example:
        """Read one row and its image; see `ExampleSequence.at`.

        Raises:
            ImageError: The image is no longer there.
        """
        number = self.kept[index]
        row = self.table.row(number, self.columns.tops())
        images, size = self._images(row), self._size(row)
        first = images[0] if images else b""
        return Example(
            id=self.prefix + (self._ids[index] or f"{self.table.name}/{number}"),
            image=resized(first, size) if size and first else first,
            more_images=tuple(images[1:]),
            question=_question(value_at(row, self.columns.question)),
            answers=texts(value_at(row, self.columns.answers)),
            source=self._sources[index],
            value_box=box(value_at(row, self.columns.value_box)),
        )

    def _images(self, row: Mapping[str, Any]) -> list[bytes]:
        return images_bytes(value_at(row, self.columns.image), self.table.folder)

    def _size(self, row: Mapping[str, Any]) -> tuple[int, int] | None:
        """Width and height in pixels to which the row's image must be resized, if the row says so."""
        width, height = value_at(row, self.columns.width), value_at(row, self.columns.height)
        return (2 * int(width), 2 * int(height)) if width and height else None

    def _good_rows(self, limit: int | None) -> list[int]:
        """The numbers of rows with a question, an answer and an image that decodes; checked in several threads."""
        total = len(self.table)
        kept: list[int] = []
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            for start in range(0, total, _CHUNK):
                numbers = range(start, min(start + _CHUNK, total))
                for number, (reason, detail) in zip(numbers, threads.map(self._fault, numbers), strict=True):
                    if limit is not None and len(kept) >= limit:
                        break
                    if not reason:
                        kept.append(number)
                    else:
                        self._first.setdefault(reason, f"first: row {number + 1}{detail}")
                        self.dropped[reason] += 1
                if total > _CHUNK:
                    print(f"\rchecked {numbers[-1] + 1}/{total} rows of {self.table.name}", end="", file=sys.stderr)
                if limit is not None and len(kept) >= limit:
                    break
        if total > _CHUNK:
            print(file=sys.stderr)
        return kept

    def _fault(self, number: int) -> tuple[str, str]:
        """The reason to drop a row and a detail to print after it; two empty strings for a good row."""
        row = self.table.row(number, self.columns.tops())
        if not _question(value_at(row, self.columns.question)):
            return "an empty question", ""
        if not texts(value_at(row, self.columns.answers)):
            return "an empty answer", ""
        try:
            images, size = self._images(row), self._size(row)
            for image in images:
                decode(image, limits=LIMITS)
            self._pages[number] = digest_of_images(images)
        except (ImageError, ValueError, TypeError) as error:
            return "an unreadable image", f", {error}"
        if size and len(images) > 1:
            return "an unreadable image", f", {len(images)} images, and a size for one"
        if size and (min(size) < 1 or size[0] * size[1] > LIMITS.max_pixels):
            return "an unreadable image", f", wanted at {size[0]}×{size[1]}"
        try:
            box(value_at(row, self.columns.value_box))
        except RegionError as error:
            return "an unusable value box", f", {error}"
        return "", ""

    def _source(self, value: object) -> str:
        if value is None or str(value).strip() == "":
            return self.table.name
        return f"{value} print" if self.columns.source == "print" else str(value)

    def _refuse_paths_to_nowhere(self, given: Columns) -> None:
        """Refuse a path into a struct or a list that was asked for and leads nowhere in any of the first rows."""
        for name in (field.name for field in fields(Columns)):
            path = getattr(given, name)
            if path is None or "." not in path:
                continue
            top = path.split(".")[0]
            heads = [self.table.row(number, [top])[top] for number in range(min(len(self.table), _CHUNK))]
            known = [head for head in heads if head is not None]
            if known and all(is_missing({top: head}, path) for head in known):
                inside = sorted({key for head in heads if isinstance(head, Mapping) for key in head})
                has = f"; {top} has {', '.join(map(str, inside[:20]))}" if inside else ""
                raise DataError(f"{self.table.name}: no row has the column {path!r}{has}. Name it: {name}=COLUMN")

    def _refuse_equal_ids(self) -> None:
        repeated = [name for name, count in Counter(filter(None, self._ids)).items() if count > 1]
        if repeated:
            raise DataError(
                f"{self.table.name}: {len(repeated)} ids stand for several rows, {repeated[0]!r} for one; "
                "name another column (id=COLUMN)"
            )


def _question(value: object) -> str:
    """The question without the placeholder for its image; empty if the value is not a text."""
    return value.replace(_PLACEHOLDER, " ").strip() if isinstance(value, str) else ""


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
        name: A name in `DRAWN` for pages that are drawn here; a .jsonl or .parquet file; a folder of
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
    if name in DRAWN:
        return DRAWN[name].practice(count or PAGES, seed)
    names = [part.strip() for part in name.split(",")]
    opened = [_open(part, columns, split, count, prefix=f"{part}#" if len(names) > 1 else "") for part in names]
    examples = opened[0] if len(opened) == 1 else Joined(opened)
    return examples if count is None else Part(examples, range(min(count, len(examples))))


def _open(name: str, columns: Sequence[str], split: str, limit: int | None, *, prefix: str) -> FileExamples:
    examples = FileExamples(open_table(name, split=split), Columns.parse(columns), limit=limit, prefix=prefix)
    if examples.dropped:
        _log.warning("%s", examples.summary)
    return examples
