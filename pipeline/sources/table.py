"""A table of your own: one row a clip, with a file and labels or numbers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from configs.errors import InputError
from configs.sources import TableSource
from shards.plan import Catalogue, ClassName, Task, clip_table
from shards.splits import SPLITS

MAX_FOLD = 127  # int8 in the plan
MAX_TARGET = 3.4e38  # float32
MAX_CLASSES = 32_767  # labels are int16


def lists(source: TableSource) -> dict[str, Path]:
    """The table."""
    return {"table": source.table}


def read(source: TableSource) -> Catalogue:
    """The rows of the table as clips; raises InputError with the row that is at fault."""
    columns = _Columns(source, _table(source.table))
    files = [str(value) for value in columns.needed(source.columns.file)]
    starts, ends = columns.stretches()
    labels = None if source.targets else columns.labels()
    classes = source.targets if labels is None else sorted({name for row in labels for name in row})
    if len(classes) > MAX_CLASSES:
        raise InputError(f"{source.table}: {len(classes)} labels; more than {MAX_CLASSES} are none")
    index_of = {name: index for index, name in enumerate(classes)}
    nothing: list[list[str]] = [[] for _ in files]
    clips = clip_table(
        len(files),
        {
            "id": _ids(columns.optional(source.columns.id), files, starts),
            "path": files,
            "start_s": starts,
            "end_s": ends,
            "labels": [sorted({index_of[name] for name in row}) for row in labels or nothing],
            "targets": columns.targets(),
            "set": ["table"] * len(files),
            "split": columns.splits(),
            "fold": columns.folds(),
            "group": columns.groups(files),
        },
    )
    names = tuple(ClassName(name, name) for name in classes)
    return Catalogue(clips, names, _task(source, labels))


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
            raise InputError(
                f"{self._source.table} has no column {name}; it has {there}: rename one of these"
            )
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

    def groups(self, files: Sequence[str]) -> list[str | None]:
        """The group column; else the file, where several clips are of one."""
        times = Counter(files)
        own = [self._text(row, value) for row, value in enumerate(self._group_values())]
        return [
            group if group is not None else file if times[file] > 1 else None
            for group, file in zip(own, files, strict=True)
        ]

    def _group_values(self) -> list[Any]:
        values = self.optional(self._source.columns.group)
        return [None if value != value else value for value in values]  # NaN is no group

    def _text(self, row: int, value: Any) -> str | None:
        if value is not None and not isinstance(value, str | int | float):
            raise self._fault(row, f"{value!r} is no text")
        return None if value is None else str(value)

    def stretches(self) -> tuple[list[float | None], list[float | None]]:
        """Starts and ends in seconds; a clip that is a whole file has neither."""
        starts = self.numbers(self._source.columns.start)
        ends = self.numbers(self._source.columns.end)
        for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
            if (start or 0.0) < 0 or (end is not None and end <= (start or 0.0)):
                raise self._fault(row, f"no stretch from {start} to {end} s")
            if start is None and end is not None:
                starts[row] = 0.0
        return starts, ends

    def labels(self) -> list[list[str]]:
        name = self._source.columns.labels
        if name not in self._table.column_names:
            there = ", ".join(self._table.column_names)
            raise InputError(
                f"{self._source.table} has no column {name}: name it in source.columns.labels, or "
                f"name columns of numbers in source.targets; it has {there}"
            )
        return [self._names(row, value) for row, value in enumerate(self.optional(name))]

    def targets(self) -> list[list[float | None]]:
        columns = [self.numbers(name, is_needed=True) for name in self._source.targets]
        for name, column in zip(self._source.targets, columns, strict=True):
            for row, number in enumerate(column):
                if abs(number or 0.0) > MAX_TARGET:
                    raise self._fault(row, f"{name} {number:g} is beyond what float32 holds")
        return [list(row) for row in zip(*columns, strict=True)] or [[]] * self._table.num_rows

    def _names(self, row: int, value: Any) -> list[str]:
        """The labels in one cell: a list, or text with separators."""
        if not isinstance(value, list):
            value = (self._text(row, value) or "").split(self._source.label_separator)
        names = [(self._text(row, part) or "").strip() for part in value]
        return [name for name in names if name]

    def splits(self) -> list[str]:
        values = [
            "train" if v is None else str(v) for v in self.optional(self._source.columns.split)
        ]
        for row, value in enumerate(values):
            if value not in SPLITS:
                raise self._fault(row, f"split {value!r} is none of {', '.join(SPLITS)}")
        return values

    def folds(self) -> list[int]:
        name = self._source.columns.fold
        numbers = self.numbers(name)
        if 0.0 in numbers:
            raise self._fault(numbers.index(0.0), f"{name} 0: number the folds from 1")
        values = [value or 0.0 for value in numbers]
        for row, value in enumerate(values):
            if not value.is_integer() or not 0 <= value <= MAX_FOLD:
                raise self._fault(row, f"{name} {value:g} is no whole number from 1 to {MAX_FOLD}")
        return [int(value) for value in values]

    def _fault(self, row: int, what: str) -> InputError:
        return InputError(f"{self._source.table}, row {row + 1}: {what}")


def _ids(given: Sequence[Any], files: Sequence[str], starts: Sequence[float | None]) -> list[str]:
    """The id column; else the file, with the start in milliseconds where the clip is a stretch."""
    made = [
        file if start is None else f"{file}_{round(1000 * start)}"
        for file, start in zip(files, starts, strict=True)
    ]
    return [mine if own is None else str(own) for own, mine in zip(given, made, strict=True)]


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
        table = reader(path)
    except OSError as error:
        raise InputError(f"source.table: {path}: {error.strerror or error}") from None
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    doubled = [name for name, times in Counter(table.column_names).items() if times > 1]
    if doubled:
        raise InputError(f"{path} has more than one column {doubled[0]}")
    return table


def _csv(delimiter: str) -> Callable[[Path], pa.Table]:
    def read(path: Path) -> pa.Table:
        text = pacsv.ConvertOptions(strings_can_be_null=False)
        options = pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
        names = pacsv.open_csv(path, parse_options=options).schema.names
        text.column_types = dict.fromkeys(names, pa.string())  # an id `007` stays one
        table = pacsv.read_csv(path, parse_options=options, convert_options=text)
        for name in names:
            lines = pc.match_substring(table.column(name), "\n").to_pylist()
            if True in lines:
                row = lines.index(True) + 1
                raise ValueError(f"row {row} has a line break in {name}: is a quote left open?")
        return table

    return read


def _jsonl(path: Path) -> pa.Table:
    lines = path.read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line.strip()]
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ValueError(f"row {number} is no JSON object")
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: [row.get(name) for row in rows] for name in names})


READERS: dict[str, Callable[[Path], pa.Table]] = {
    ".csv": _csv(","),
    ".tsv": _csv("\t"),
    ".parquet": pq.read_table,
    ".jsonl": _jsonl,
}
