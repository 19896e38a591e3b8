"""AudioSet: segment lists and class list as Google publishes them, and audio as people have it.

A segment list has three comment lines, then rows `YTID, start, end, "mid,mid"` whose quoted label
list follows a blank: a csv reader's default dialect would split it. The clip's id is the video's
id; each id stands in one list only. The audio is one file a clip, or lies in tar or Parquet files
that are read in place (`containers.py`). Two million rows are read as columns, not one by one.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs.errors import InputError
from configs.sources import AudioSetSource, SegmentSet
from pipeline import storage
from pipeline.sources import containers
from pipeline.sources.label_space import LabelMap, label_map
from shards.plan import Catalogue, ClassName, clip_table
from shards.splits import unit_hash

NUMBER = r"[0-9.eE+-]+"
ROW = (
    rf"^(?P<id>[^,]+), *(?P<start>{NUMBER}), *(?P<end>{NUMBER}), *"
    r"(?:\"(?P<quoted>[^\"]*)\"|(?P<bare>[^\",]*))$"
)


def lists(source: AudioSetSource) -> dict[str, Path]:
    """The files that decide the catalogue, by config key."""
    found = {"classes": source.classes}
    if source.ontology is not None:
        found["ontology"] = source.ontology
    for name, part in source.sets.items():
        if part.segments is not None:
            found[f"sets.{name}.segments"] = part.segments
    return found


def read(source: AudioSetSource) -> Catalogue:
    """All sets of the source, in the order of the config."""
    classes = read_classes(source.classes)
    listed = {name: _read_set(source, name, part) for name, part in source.sets.items()}
    labels = label_map(source, classes, _counts(listed.values()))
    left_out: Counter[str] = Counter()
    tables = []
    for name, table in listed.items():
        table = _thinned(table, name, source.sets[name].share, left_out)
        part = source.sets[name]
        tables.append(_labelled(table, labels, source, str(part.segments or part.files), left_out))
    return Catalogue(pa.concat_tables(tables), labels.classes, "multilabel", dict(left_out))


def read_classes(path: Path) -> list[ClassName]:
    """The class list: a header, then `index,mid,display_name`."""
    with open_list(path) as file:
        rows = list(csv.DictReader(file))
    try:
        classes = [ClassName(row["mid"], row["display_name"]) for row in rows]
    except KeyError as error:
        raise InputError(f"{path}: no column {error}; expected index,mid,display_name") from None
    doubled = [mid for mid, times in Counter(name.id for name in classes).items() if times > 1]
    if doubled:
        raise InputError(f"{path} lists class {doubled[0]} twice")
    return classes


def read_segments(path: Path) -> pa.Table:
    """The rows of a segment list: id, duration_s, mids (a list of strings).

    Raises InputError with the line that is malformed.
    """
    with open_list(path) as file:
        lines = pa.array(file.read().splitlines(), pa.large_string())
    lines = pc.utf8_trim_whitespace(lines)
    numbers = pc.indices_nonzero(pc.invert(pc.or_(pc.starts_with(lines, "#"), pc.equal(lines, ""))))
    rows = lines.take(numbers)
    fields = pc.extract_regex(rows, ROW)
    durations = _durations(pc.struct_field(fields, "start"), pc.struct_field(fields, "end"))
    bad = np.flatnonzero(~(durations > 0) | ~np.isfinite(durations))
    if len(bad):
        line = rows[int(bad[0])].as_py()
        raise InputError(
            f"{path}, line {numbers[int(bad[0])].as_py() + 1}: expected "
            f'`YTID, start, end, "mid,mid"`, not {line!r}: take the list as it is published '
            "(spreadsheets save it with other separators)"
        )
    ids = pc.struct_field(fields, "id").cast(pa.string())
    quoted, bare = (pc.struct_field(fields, name).cast(pa.string()) for name in ("quoted", "bare"))
    mids = pc.split_pattern(pc.binary_join_element_wise(quoted, bare, ""), ",")
    return pa.table({"id": ids, "duration_s": durations.astype(np.float32), "mids": mids})


def _durations(starts: pa.Array, ends: pa.Array) -> Any:
    """Seconds of each row; NaN where the row is malformed."""
    try:
        seconds = pc.subtract(ends.cast(pa.float64()), starts.cast(pa.float64()))
        return pc.fill_null(seconds, float("nan")).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:  # some number is none: find it the slow way
        return np.array(
            [_difference(s, e) for s, e in zip(starts.to_pylist(), ends.to_pylist(), strict=True)]
        )


def _difference(start: str | None, end: str | None) -> float:
    try:
        return float(end or "") - float(start or "")
    except ValueError:
        return float("nan")


def _read_set(source: AudioSetSource, name: str, part: SegmentSet) -> pa.Table:
    """One set with the columns of a plan, and `mids` in place of labels."""
    if part.segments is None:
        return containers.parquet_rows(source.root, name, part)
    segments = read_segments(part.segments)
    if part.storage == "files":
        paths = _paths(source.root, name, part, segments.column("id"))
        places: dict[str, Any] = {"path": paths}
    else:
        places = containers.places(source.root, part, segments.column("id"))
    table = clip_table(
        segments.num_rows,
        {
            "id": segments.column("id"),
            "set": pa.repeat(name, segments.num_rows),
            "split": pa.repeat(part.split, segments.num_rows),
            "duration_s": segments.column("duration_s"),
            **places,
        },
    )
    return table.append_column("mids", segments.column("mids"))


def _paths(root: str, set_name: str, part: SegmentSet, ids: pa.ChunkedArray) -> pa.Array:
    """Where each clip lies. With `.*` the directory is listed once and the extension found; a
    clip that is not there keeps the star, and will be missing."""
    template = part.files.replace("{set}", set_name)
    paths = [template.replace("{prefix}", i[:2]).replace("{id}", i) for i in ids.to_pylist()]
    if template.endswith(".*"):
        stars = template.replace("{prefix}", "*").replace("{id}", "*")
        found = storage.find(root, stars)
        found.sort(key=storage.is_audio_name)  # of `a.flac` and `a.json`, the last one counts
        there = {path.rpartition(".")[0]: path for path in found}
        paths = [there.get(path[:-2], path) for path in paths]
    return pa.array(paths, pa.string())


def _counts(tables: Any) -> Counter[str]:
    """How often each mid is listed, over all sets."""
    counted: Counter[str] = Counter()
    for table in tables:
        for entry in table.column("mids").combine_chunks().flatten().value_counts().to_pylist():
            counted[entry["values"]] += entry["counts"]
    return counted


def _thinned(table: pa.Table, name: str, share: float, left_out: Counter[str]) -> pa.Table:
    """A share of the clips, by a hash of their ids: the same ones from any longer list."""
    if share == 1:
        return table
    kept = [unit_hash(i, "share") < share for i in table.column("id").to_pylist()]
    left_out[f"beyond the share of {name}"] += len(kept) - sum(kept)
    return table.filter(pa.array(kept))


def _labelled(
    table: pa.Table, labels: LabelMap, source: AudioSetSource, where: str, left_out: Counter[str]
) -> pa.Table:
    """`mids` turned into class indices; clips that no label is left of may go."""
    lists_of_mids = table.column("mids").combine_chunks()
    indices, offsets = labels.indices(lists_of_mids, table.column("id"), where)
    table = table.drop_columns("mids")
    column = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(indices, pa.int16()))
    place = table.schema.get_field_index("labels")
    table = table.set_column(place, table.schema.field("labels"), column)
    is_empty = np.diff(offsets) == 0
    if not source.labels.keep_unlabelled and is_empty.any():
        left_out["without a label that counts"] += int(is_empty.sum())
        table = table.filter(pa.array(~is_empty))
    return table


@contextmanager
def open_list(path: Path) -> Iterator[TextIO]:
    """A list, opened for reading; what cannot be read or is no UTF-8 is an InputError."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except UnicodeDecodeError:
        raise InputError(f"{path} is no UTF-8 text") from None
    except csv.Error as error:
        raise InputError(f"{path} is no CSV text: {error}") from None
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}; the lists are published at AudioSet's site"
        ) from None
