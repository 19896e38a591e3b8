"""AudioSet: segment lists, class list and ontology as Google publishes them.

A segment list has three comment lines, then rows `YTID, start, end, "mid,mid"` whose quoted
label list follows a blank: the csv module's default dialect would split it. The clip's id is the
video's id; each id stands in one list only.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
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
            try:
                clip_id, start_s, end_s, mids = row
                yield Segment(clip_id, float(end_s) - float(start_s), tuple(mids.split(",")))
            except ValueError:
                raise InputError(
                    f'{path}, line {number}: expected `YTID, start, end, "mid,mid"`, not {row}'
                ) from None


def _read_set(name: str, part: SegmentSet, index_of: Mapping[str, int]) -> pa.Table:
    segments = list(read_segments(part.segments))
    try:
        labels = [[index_of[mid] for mid in segment.mids] for segment in segments]
    except KeyError as error:
        raise InputError(f"{part.segments}: label {error} is not in the class list") from None
    columns = {
        "id": [segment.id for segment in segments],
        "path": [_path(name, part, segment.id) for segment in segments],
        "labels": labels,
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


def _open(path: Path) -> TextIO:
    try:
        return path.open(encoding="utf-8", newline="")
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}; the lists are published at AudioSet's site"
        ) from None
