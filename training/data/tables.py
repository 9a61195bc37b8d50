"""Tables of rows: a JSONL or JSON file, Parquet files, a saved `datasets` folder, or a data set of a hub.

Images are not decoded here. Only JSON rows are held in memory; the other formats are memory-mapped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from vtagent.errors import DataError, one_line


class Table(Protocol):
    """Rows that can be read in any order and more than once."""

    @property
    def name(self) -> str:
        """The table's name in messages and ids."""
        ...

    @property
    def folder(self) -> Path:
        """The folder that relative image paths start from."""
        ...

    @property
    def columns(self) -> Collection[str]:
        """The top-level columns."""
        ...

    def __len__(self) -> int: ...

    def row(self, number: int, columns: Sequence[str]) -> Mapping[str, Any]:
        """Read one row.

        Args:
            number: The row's number, from 0.
            columns: The top-level columns to read.
        """
        ...


@dataclass
class MemoryTable:
    """Rows in memory."""

    name: str
    folder: Path
    rows: Sequence[Mapping[str, Any]]

    @property
    def columns(self) -> Collection[str]:
        """All columns that occur; a row that lacks one has None there."""
        return dict.fromkeys(column for row in self.rows for column in row)

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, number: int, columns: Sequence[str]) -> Mapping[str, Any]:
        """See `Table.row`."""
        row = self.rows[number]
        return {column: row.get(column) for column in columns}


class ArrowTable:
    """A memory-mapped `datasets.Dataset`. Image columns are read as they are stored.

    Args:
        name: The table's name.
        folder: Where relative image paths start.
        dataset: The `datasets.Dataset`.
    """

    def __init__(self, name: str, folder: Path, dataset: Any) -> None:
        self.name, self.folder = name, folder
        self.columns: Collection[str] = list(dataset.column_names)
        self._dataset = dataset.with_format("arrow")
        self._views: dict[tuple[str, ...], Any] = {}

    def __len__(self) -> int:
        return len(self._dataset)

    def row(self, number: int, columns: Sequence[str]) -> Mapping[str, Any]:
        """See `Table.row`."""
        view = self._views.get(tuple(columns))
        if view is None:
            view = self._views[tuple(columns)] = self._dataset.select_columns(list(columns))
        row: dict[str, Any] = view[number].to_pylist()[0]
        return row


def open_table(name: str, *, split: str = "train") -> Table:
    """Open the table that `name` stands for.

    Args:
        name: A .jsonl, .json or .parquet file; a folder of .parquet files, or one that `Dataset.save_to_disk` wrote;
            else the id of a data set on the hub.
        split: The split of a data set that has several.

    Returns:
        The table.

    Raises:
        DataError: It does not exist, cannot be read, or has no rows.
    """
    path = Path(name)
    if path.suffix in (".jsonl", ".ndjson", ".json"):
        table: Table = MemoryTable(path.stem, path.parent, _json_lines(path))
    elif path.suffix == ".parquet" or path.exists():
        table = ArrowTable(path.stem, path if path.is_dir() else path.parent, _load_local(path, split))
    elif name.count("/") <= 1 and not name.startswith((".", "/", "~")):
        table = ArrowTable(name.rpartition("/")[2], Path(), _load(name, split=split, where=name))
    else:
        raise DataError(f"{name}: no such file or folder")
    if not len(table):
        raise DataError(f"{name}: no rows")
    return table


def _json_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file with an object on each line, or with one array of objects.

    A line ends where JSON says: at a line feed or a carriage return. Other separators of Unicode may stand in a text.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or 'not UTF-8 text'}") from error
    if text.lstrip().startswith("["):
        return _json_array(path, text)
    if path.suffix == ".json":
        raise DataError(f"{path}: a .json file holds an array of objects; one object a line belongs into a .jsonl file")
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: not a JSON object") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: not a JSON object")
        rows.append(row)
    return rows


def _json_array(path: Path, text: str) -> list[dict[str, Any]]:
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path}: not a JSON array ({one_line(error)})") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DataError(f"{path}, entry {number}: not a JSON object")
    return list(rows)


def _load_local(path: Path, split: str) -> Any:
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if files:
        if not path.exists():
            raise DataError(f"{path}: no such file")
        return _load("parquet", split="train", where=str(path), data_files=[str(file) for file in files])
    datasets = _import_datasets(str(path))
    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # `datasets` raises many kinds
        raise DataError(f"{path}: neither .parquet files nor a saved data set ({one_line(error)})") from error
    if not isinstance(loaded, datasets.DatasetDict):
        return loaded
    if split not in loaded:
        raise DataError(f"{path}: no split {split!r}; it has {', '.join(loaded)}")
    return loaded[split]


def _load(name: str, *, split: str, where: str, **options: Any) -> Any:
    datasets = _import_datasets(where)
    try:
        return datasets.load_dataset(name, split=split, **options)
    except Exception as error:  # the hub, the network and the format raise many kinds
        raise DataError(f"{where}: {one_line(error)}") from error


def _import_datasets(where: str) -> Any:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise DataError(f"{where}: reading it needs an extra: pip install 'vtagent[train]'") from error
    return datasets
