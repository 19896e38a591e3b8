"""AudioSet: segment lists, class list and ontology as Google publishes them.

A segment list has three comment lines, then rows `YTID, start, end, "mid,mid"` whose quoted
label list follows a blank: the csv module's default dialect would split it. The clip's id is the
video's id; each id stands in one list only.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import pyarrow as pa

from configs.errors import InputError
from configs.schema import AudioSetSource, SegmentSet
from shards.plan import CLIP_SCHEMA, Catalogue, ClassName


@dataclass(frozen=True)
class Segment:
    """One row of a segment list."""

    id: str
    duration_s: float
    mids: tuple[str, ...]


def read(source: AudioSetSource) -> Catalogue:
    """All sets of the source, in the order of the config."""
    classes = read_classes(source.classes)
    if source.ontology is not None:
        _check_ontology(source.ontology, classes)
    index_of = {name.id: index for index, name in enumerate(classes)}
    tables = [_read_set(name, part, index_of) for name, part in source.sets.items()]
    return Catalogue(pa.concat_tables(tables), tuple(classes), "multilabel")


def read_classes(path: Path) -> list[ClassName]:
    """The class list: a header, then `index,mid,display_name`."""
    with _open(path) as file:
        rows = list(csv.DictReader(file))
    try:
        return [ClassName(row["mid"], row["display_name"]) for row in rows]
    except KeyError as error:
        raise InputError(f"{path}: no column {error}; expected index,mid,display_name") from None


def read_segments(path: Path) -> Iterator[Segment]:
    """The rows of a segment list; raises InputError with the line that is malformed."""
    with _open(path) as file:
        for number, row in enumerate(csv.reader(file, skipinitialspace=True), start=1):
            if not row or row[0].startswith("#"):
                continue
            yield _segment(path, number, row)


def _segment(path: Path, number: int, row: list[str]) -> Segment:
    try:
        clip_id, start_s, end_s, mids = row
        duration_s = float(end_s) - float(start_s)
        if not 0 < duration_s < math.inf:
            raise ValueError("no duration")
    except ValueError:
        raise InputError(
            f'{path}, line {number}: expected `YTID, start, end, "mid,mid"`, not {row}'
        ) from None
    return Segment(clip_id, duration_s, tuple(mids.split(",")))


def _read_set(name: str, part: SegmentSet, index_of: Mapping[str, int]) -> pa.Table:
    segments = list(read_segments(part.segments))
    for segment in segments:
        for mid in segment.mids:
            if mid not in index_of:
                where = f"{part.segments}: {segment.id}"
                raise InputError(f"{where}: label {mid!r} is not in the class list")
    columns = {
        "id": [segment.id for segment in segments],
        "path": [_path(name, part, segment.id) for segment in segments],
        "labels": [[index_of[mid] for mid in segment.mids] for segment in segments],
        "set": [name] * len(segments),
        "split": [part.split] * len(segments),
        "fold": [0] * len(segments),
        "duration_s": [segment.duration_s for segment in segments],
    }
    return pa.table(columns, schema=CLIP_SCHEMA)


def _path(set_name: str, part: SegmentSet, clip_id: str) -> str:
    return part.files.format(set=set_name, prefix=clip_id[:2], id=clip_id)


def _check_ontology(path: Path, classes: list[ClassName]) -> None:
    with _open(path) as file:
        known = {entry["id"] for entry in json.load(file)}
    strangers = [name.id for name in classes if name.id not in known]
    if strangers:
        raise InputError(f"{path}: {len(strangers)} classes are not in it, first {strangers[0]}")


@contextmanager
def _open(path: Path) -> Iterator[TextIO]:
    """A list, opened for reading; what cannot be read or is no UTF-8 is an InputError."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except UnicodeDecodeError:
        raise InputError(f"{path} is no UTF-8 text") from None
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}; the lists are published at AudioSet's site"
        ) from None
