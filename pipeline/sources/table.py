"""A table of your own: one row a clip, with a file and labels or numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from configs.errors import InputError
from configs.sources import TableSource
from shards.plan import Catalogue, ClassName, Task, clip_table
from shards.splits import SPLITS


def lists(source: TableSource) -> dict[str, Path]:
    """The table."""
    return {"table": source.table}


def read(source: TableSource) -> Catalogue:
    """The rows of the table as clips; raises InputError with the row that is at fault."""
    table = _table(source.table)
    names = source.columns
    columns = _Columns(source, table)
    files = [str(value) for value in columns.needed(names.file)]
    starts, ends = columns.numbers(names.start), columns.numbers(names.end)
    targets = [columns.numbers(name, is_needed=True) for name in source.targets]
    labels = columns.labels()
    if not source.targets and labels is None:
        raise InputError(
            f"{source.table} has no column {names.labels}: name it in source.columns.labels, or "
            "name columns of numbers in source.targets"
        )
    classes = [*source.targets] if source.targets else sorted({i for r in labels or () for i in r})
    index_of = {name: index for index, name in enumerate(classes)}
    clips = clip_table(
        len(files),
        {
            "id": _ids(columns, files, starts, ends),
            "path": files,
            "start_s": [
                None if s is None and e is None else s or 0.0
                for s, e in zip(starts, ends, strict=True)
            ],
            "end_s": ends,
            "labels": [[]] * len(files)
            if source.targets
            else [sorted(index_of[label] for label in set(row)) for row in labels or ()],
            "targets": [list(row) for row in zip(*targets, strict=True)]
            if targets
            else [[]] * len(files),
            "set": ["table"] * len(files),
            "split": columns.splits(),
            "fold": [int(value or 0) for value in columns.numbers(names.fold)],
            "group": [None if v is None else str(v) for v in columns.optional(names.group)],
        },
    )
    task = _task(source, labels)
    return Catalogue(clips, tuple(ClassName(name, name) for name in classes), task)


class _Columns:
    """The table's columns by name, with errors that name the row."""

    def __init__(self, source: TableSource, table: pa.Table) -> None:
        self._source = source
        self._table = table

    def optional(self, name: str) -> list[Any]:
        if name not in self._table.column_names:
            return [None] * self._table.num_rows
        return [value if value != "" else None for value in self._table.column(name).to_pylist()]

    def needed(self, name: str) -> list[Any]:
        if name not in self._table.column_names:
            there = ", ".join(self._table.column_names)
            raise InputError(f"{self._source.table} has no column {name}; it has {there}")
        values = self.optional(name)
        if None in values:
            raise self._fault(values.index(None), f"no {name}")
        return values

    def numbers(self, name: str, *, is_needed: bool = False) -> list[float | None]:
        values = self.needed(name) if is_needed else self.optional(name)
        numbers: list[float | None] = []
        for row, value in enumerate(values):
            try:
                number = None if value is None else float(value)
            except (TypeError, ValueError):
                number = float("nan")
            if number is not None and not abs(number) < float("inf"):
                raise self._fault(row, f"{name} {value!r} is no number")
            numbers.append(number)
        return numbers

    def labels(self) -> list[list[str]] | None:
        if self._source.columns.labels not in self._table.column_names:
            return None
        separator = self._source.label_separator
        return [
            [
                str(part).strip()
                for part in (value if isinstance(value, list) else str(value).split(separator))
                if str(part).strip()
            ]
            if value is not None
            else []
            for value in self.optional(self._source.columns.labels)
        ]

    def splits(self) -> list[str]:
        values = [
            "train" if v is None else str(v) for v in self.optional(self._source.columns.split)
        ]
        for row, value in enumerate(values):
            if value not in SPLITS:
                raise self._fault(row, f"split {value!r} is none of {', '.join(SPLITS)}")
        return values

    def _fault(self, row: int, what: str) -> InputError:
        return InputError(f"{self._source.table}, row {row + 1}: {what}")


def _ids(
    columns: _Columns,
    files: Sequence[str],
    starts: Sequence[float | None],
    ends: Sequence[float | None],
) -> list[str]:
    """The id column; else the file, with the start in milliseconds where the clip is a stretch."""
    given = columns.optional(columns._source.columns.id)
    return [
        str(clip_id)
        if clip_id is not None
        else file
        if start is None and end is None
        else f"{file}_{round(1000 * (start or 0.0))}"
        for clip_id, file, start, end in zip(given, files, starts, ends, strict=True)
    ]


def _task(source: TableSource, labels: Sequence[Sequence[str]] | None) -> Task:
    if source.targets:
        return "regression"
    is_single = all(len(row) == 1 for row in labels or ())
    if source.task == "multiclass" and not is_single:
        raise InputError(f"{source.table}: task multiclass, but some rows have not one label")
    return source.task or ("multiclass" if is_single else "multilabel")


def _table(path: Path) -> pa.Table:
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"source.table: {path} is none of {', '.join(READERS)}")
    if not path.is_file():
        raise InputError(f"source.table: {path}: No such file")
    try:
        return reader(path)
    except OSError as error:
        raise InputError(f"source.table: {path}: {error.strerror or error}") from None
    except (pa.ArrowInvalid, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None


def _csv(delimiter: str) -> Callable[[Path], pa.Table]:
    def read(path: Path) -> pa.Table:
        text = pacsv.ConvertOptions(strings_can_be_null=False)
        options = pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
        names = pacsv.open_csv(path, parse_options=options).schema.names
        text.column_types = dict.fromkeys(names, pa.string())  # an id `007` stays one
        return pacsv.read_csv(path, parse_options=options, convert_options=text)

    return read


def _jsonl(path: Path) -> pa.Table:
    rows = [
        json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
    ]
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: [row.get(name) for row in rows] for name in names})


READERS: dict[str, Callable[[Path], pa.Table]] = {
    ".csv": _csv(","),
    ".tsv": _csv("\t"),
    ".parquet": pq.read_table,
    ".jsonl": _jsonl,
}
