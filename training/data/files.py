"""Questions from a table: every row looked at once, the bad ones dropped and counted, pictures read when asked for."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, overload

from vtagent.errors import DataError, ImageError
from vtagent.training.data.columns import Columns, texts, value_at
from vtagent.training.data.examples import Example
from vtagent.training.data.image_bytes import LIMITS, image_bytes, resized, whole
from vtagent.training.data.tables import Table

_PLACEHOLDER = "<image>"
_TOGETHER = 500  # rows looked at between two reports of progress


class FileExamples(Sequence[Example]):
    """The good rows of a table, in its order.

    Args:
        table: Where the rows are.
        columns: What to read; what it does not name is looked for.
        limit: So many good rows are enough; the rest is not looked at.
        prefix: What every example's id begins with, to tell tables apart that are read together.

    Raises:
        DataError: A missing column, two rows with one id, or no good row.

    Attributes:
        kept: The numbers of the good rows.
        sources: The source of each of them.
        dropped: How many rows were left out, by reason: "an empty question", "an empty answer", "an
            unreadable image".
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
        self.prefix = prefix
        self.dropped: Counter[str] = Counter()
        self._first: dict[str, str] = {}
        self.kept = self._good_rows(limit)
        if not self.kept:
            raise DataError(f"no usable row: {self.summary}")
        names = self._tops("source", "id")
        heads = [self.table.row(number, names) for number in self.kept] if names else [{} for _ in self.kept]
        self.sources = [self._source(value_at(head, self.columns.source)) for head in heads]
        ids = [value_at(head, self.columns.id) for head in heads]
        self._ids = ["" if id_ is None else str(id_) for id_ in ids]
        self._refuse_equal_ids()

    @property
    def summary(self) -> str:
        """One line on what was read and what was dropped."""
        line = f"{self.table.name}: {len(self.kept)} of {len(self.table)} rows"
        reasons = [f"{count} with {reason} ({self._first[reason]})" for reason, count in self.dropped.items()]
        return f"{line}; dropped {', '.join(reasons)}" if reasons else line

    def __len__(self) -> int:
        return len(self.kept)

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...

    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        """One question, its picture read now.

        Raises:
            ImageError: The picture is no longer there.
        """
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        number = self.kept[index]
        row = self.table.row(number, self.columns.tops)
        picture, size = self._picture(row), self._size(row)
        return Example(
            id=self.prefix + (self._ids[index] or f"{self.table.name}/{number}"),
            image=resized(picture, size) if size else picture,
            question=_question(value_at(row, self.columns.question)),
            answers=texts(value_at(row, self.columns.answers)),
            source=self.sources[index],
        )

    def _picture(self, row: Mapping[str, Any]) -> bytes:
        return image_bytes(value_at(row, self.columns.image), self.table.folder)

    def _size(self, row: Mapping[str, Any]) -> tuple[int, int] | None:
        """Width and height that the whole picture shall have, if the row says."""
        width, height = value_at(row, self.columns.width), value_at(row, self.columns.height)
        return (2 * int(width), 2 * int(height)) if width and height else None

    def _good_rows(self, limit: int | None) -> list[int]:
        """The numbers of rows with a question, an answer and a picture that decodes, several looked at together."""
        total = len(self.table)
        kept: list[int] = []
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            for start in range(0, total, _TOGETHER):
                numbers = range(start, min(start + _TOGETHER, total))
                for number, (reason, more) in zip(numbers, threads.map(self._fault, numbers), strict=True):
                    if limit is not None and len(kept) >= limit:
                        break
                    if not reason:
                        kept.append(number)
                    else:
                        self._first.setdefault(reason, f"first: row {number + 1}{more}")
                        self.dropped[reason] += 1
                if total > _TOGETHER:
                    print(f"\rchecked {numbers[-1] + 1}/{total} rows of {self.table.name}", end="", file=sys.stderr)
                if limit is not None and len(kept) >= limit:
                    break
        if total > _TOGETHER:
            print(file=sys.stderr)
        return kept

    def _fault(self, number: int) -> tuple[str, str]:
        row = self.table.row(number, self.columns.tops)
        if not _question(value_at(row, self.columns.question)):
            return "an empty question", ""
        if not texts(value_at(row, self.columns.answers)):
            return "an empty answer", ""
        try:
            fault = whole(self._picture(row))
            size = self._size(row)
        except (ImageError, ValueError, TypeError) as error:
            return "an unreadable image", f", {error}"
        if size and not fault and (min(size) < 1 or size[0] * size[1] > LIMITS.max_pixels):
            fault = f"wanted at {size[0]}×{size[1]}"
        return ("an unreadable image", f", {fault}") if fault else ("", "")

    def _tops(self, *names: str) -> list[str]:
        paths = [getattr(self.columns, name) for name in names]
        return list(dict.fromkeys(path.split(".")[0] for path in paths if path is not None))

    def _source(self, value: object) -> str:
        if value is None or str(value).strip() == "":
            return self.table.name
        return f"{value} print" if self.columns.source == "print" else str(value)

    def _refuse_equal_ids(self) -> None:
        repeated = [name for name, count in Counter(filter(None, self._ids)).items() if count > 1]
        if repeated:
            raise DataError(
                f"{self.table.name}: {len(repeated)} ids stand for several rows, {repeated[0]!r} for one; "
                "name another column (id=COLUMN)"
            )


def _question(value: object) -> str:
    """The text without the mark of where the image was."""
    return value.replace(_PLACEHOLDER, " ").strip() if isinstance(value, str) else ""
