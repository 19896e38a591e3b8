"""Predictions as files: `.jsonl`, a line a file, or `.parquet`, a row a file.

Both hold the same: file, duration, labels, scores over the file, and of every window its stretch,
scores and tokens; or the reason why there are none. Scores of a file are by class in JSONL, and in
the order of the classes in Parquet, whose metadata names them (`audiolex`); those of windows are in
that order in both.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from configs.errors import InputError
from shards.atomic import Attempt
from train.prediction import Prediction, Refused, record_of

if TYPE_CHECKING:  # torch takes seconds, in which a wrong path can be said
    from train.predictor import Predictor

ROWS_AT_ONCE = 64
METADATA_KEY = "audiolex"
SCORES = pa.list_(pa.float64())
WINDOW = pa.struct(
    [
        ("start_s", pa.float64()),
        ("stop_s", pa.float64()),
        ("reason", pa.string()),
        ("scores", SCORES),
        ("tokens", pa.list_(pa.list_(pa.uint16()))),
    ]
)
SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("duration_s", pa.float64()),
        ("labels", pa.list_(pa.string())),
        ("scores", SCORES),
        ("windows", pa.list_(WINDOW)),
    ]
)

Tree = dict[str, Any]
Write = Callable[[Tree], None]


def check_out(out: Path) -> None:
    """Raises InputError for a name that says no format here, or in a directory that is not
    there."""
    if out.suffix not in WRITERS:
        raise InputError(f"--out {out}: name it {' or '.join('*' + name for name in WRITERS)}")
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: there is no directory {out.parent}; make it first")
    if out.is_dir():
        raise InputError(f"--out {out} is a directory: name a file")


def written(out: Path, found: Iterable[Prediction | Refused], predictor: Predictor) -> int:
    """Write all predictions, so that the file appears whole or not at all; returns how many files
    were refused."""
    num_refused = 0
    with Attempt(out.parent, f".{out.name}") as attempt:
        with WRITERS[out.suffix](attempt.path("found"), predictor) as write:
            for one in found:
                num_refused += isinstance(one, Refused)
                write(record_of(one))
        attempt.publish("found", out)
    return num_refused


@contextmanager
def _jsonl(path: Path, predictor: Predictor) -> Iterator[Write]:
    titles = predictor.classes.titles
    with path.open("w", encoding="utf-8") as file:

        def write(record: Tree) -> None:
            if record["scores"] is not None:
                record["scores"] = dict(zip(titles, record["scores"], strict=True))
            file.write(json.dumps(record, ensure_ascii=False) + "\n")

        yield write


@contextmanager
def _parquet(path: Path, predictor: Predictor) -> Iterator[Write]:
    about = {"model": predictor.name, "classes": predictor.classes.titles}
    schema = SCHEMA.with_metadata({METADATA_KEY: json.dumps(about)})
    rows: list[Tree] = []
    with pq.ParquetWriter(path, schema) as writer:

        def write(record: Tree) -> None:
            rows.append(record)
            if len(rows) == ROWS_AT_ONCE:
                flush()

        def flush() -> None:
            writer.write_table(pa.Table.from_pylist(rows, schema))
            rows.clear()

        yield write
        if rows:
            flush()


WRITERS: dict[str, Callable[[Path, Predictor], AbstractContextManager[Write]]] = {
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}
