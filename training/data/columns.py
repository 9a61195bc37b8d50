"""Finds the columns of a table that hold the image, the question, the gold answers, the source and the value's box.

A column is given by a path: `info.tgt_width` is a field of a struct, `turns.0.text` indexes a list. A column without a
path is searched for under the names that data sets use, including those of VisionThink's published rows (`images`,
`problem`, `original_answer`, `data_source`, `info`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from vtagent.errors import DataError, RegionError
from vtagent.regions import Region

_USUAL = {
    "image": ("image", "images"),
    "question": ("question", "problem", "query"),
    "answers": ("answers", "answer", "original_answer", "solution", "label"),
    "source": ("source", "data_source", "print"),
    "id": ("id",),
    "value_box": ("value_box",),
}


@dataclass(frozen=True)
class Columns:
    """The path of each column; None: search for it."""

    image: str | None = None
    question: str | None = None
    answers: str | None = None
    """A text, a number, or a list of them. Any of them is right."""
    source: str | None = None
    id: str | None = None
    width: str | None = None
    height: str | None = None
    """Size of the low view in pixels. If a row has it, its image is resized to twice this size: the view at half the
    sides then has exactly this size."""
    value_box: str | None = None
    """Where the asked value stands: [x1, y1, x2, y2] in thousandths of the upright image's sides, or null."""

    @classmethod
    def parse(cls, pairs: Sequence[str]) -> Columns:
        """Read the paths from a command line or a recipe.

        Args:
            pairs: "NAME=PATH" for each column, such as `["image=page", "answers=gold.0"]`.

        Returns:
            The columns.

        Raises:
            DataError: A pair has another form, an unknown name, or a name that was given before.
        """
        names = {field.name for field in fields(cls)}
        named: dict[str, str] = {}
        for pair in pairs:
            name, _, path = pair.partition("=")
            if name not in names or not path or name in named:
                raise DataError(f"column {pair!r}: write NAME=COLUMN, NAME once and out of {', '.join(sorted(names))}")
            named[name] = path
        return cls(**named)

    def found_in(self, names: Collection[str], *, where: str) -> Columns:
        """Fill in the columns that have no path yet.

        Args:
            names: The top-level columns of the table.
            where: The table's name, for the error.

        Returns:
            The completed columns. Those that a table need not have may still be None.

        Raises:
            DataError: The table lacks a column.
        """
        found: dict[str, str] = {}
        for name, usual in _USUAL.items():
            path = getattr(self, name) or next((column for column in usual if column in names), None)
            if path is not None:
                found[name] = path
            elif name in ("image", "question", "answers"):
                wanted = " or ".join(map(repr, usual))
                raise DataError(f"{where}: no column {wanted}; it has {_listed(names)}. Name it: {name}=COLUMN")
        size = {"width": "info.tgt_width", "height": "info.tgt_height"} if "info" in names and not self.width else {}
        filled = replace(self, **found, **size)
        for field in fields(self):
            path = getattr(filled, field.name)
            if path is not None and path.split(".")[0] not in names:
                raise DataError(f"{where}: no column {path!r}; it has {_listed(names)}")
        return filled

    def tops(self, *names: str) -> tuple[str, ...]:
        """The top-level columns that these paths start from; those of all paths without `names`."""
        paths = [getattr(self, name) for name in names or [field.name for field in fields(self)]]
        return tuple(dict.fromkeys(path.split(".")[0] for path in paths if path is not None))


def value_at(row: Mapping[str, Any], path: str | None) -> Any:
    """Return the value that `path` leads to in a row; None if the path is None or leads nowhere."""
    value: Any = row
    for step in path.split(".") if path else ():
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, Sequence) and not isinstance(value, str | bytes) and step.isdigit():
            value = value[int(step)] if int(step) < len(value) else None
        else:
            return None
    return value if path else None


def is_missing(row: Mapping[str, Any], path: str) -> bool:
    """Whether a path leads nowhere in a row. A null at its end is there; a list that is too short is not a fault.

    Example:
        >>> is_missing({"info": {"width": None}}, "info.width"), is_missing({"info": {"width": 8}}, "info.height")
        (False, True)
    """
    value: Any = row
    for step in path.split("."):
        if isinstance(value, Mapping):
            if step not in value:
                return True
            value = value[step]
        elif isinstance(value, Sequence) and not isinstance(value, str | bytes) and step.isdigit():
            if int(step) >= len(value):
                return False
            value = value[int(step)]
        else:
            return value is not None
    return False


def box(value: object) -> Region | None:
    """Return the box of an asked value; None for a missing one.

    Raises:
        RegionError: The value is anything else than a list of four whole numbers in thousandths, x1 < x2 and y1 < y2.

    Example:
        >>> box([250, 500, 500, 560])
        Region(x1=250, y1=500, x2=500, y2=560)
    """
    if value is None:
        return None
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or len(value) != 4:
        raise RegionError(f"value_box {repr(value)[:80]}: write [x1, y1, x2, y2] in thousandths, or null")
    return Region(*(int(side) if isinstance(side, float) and side.is_integer() else side for side in value))


def texts(value: object) -> tuple[str, ...]:
    """Return gold answers as stripped texts, without empty ones and without repetitions.

    Example:
        >>> texts(["48.10", " 48.10 ", 48, None])
        ('48.10', '48')
    """
    if isinstance(value, str):
        return (value.strip(),) if value.strip() else ()
    if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return (str(value),)
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return tuple(dict.fromkeys(text for item in value for text in texts(item)))
    return ()


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names)[:20]) or "none"
