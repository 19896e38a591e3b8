"""Audio inside tar and Parquet files: where each clip's bytes are, without unpacking anything.

The Hub's agkphysics/AudioSet comes as Parquet files (video_id, audio {bytes, path}, labels,
human_labels) and as tar files of `audio/<set>/<id>.flac`. A local tar is scanned by its headers;
a remote one costs a request a member.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from configs.errors import InputError
from configs.sources import SegmentSet
from pipeline import storage
from pipeline.reading import AUDIO_COLUMN, ID_COLUMN
from pipeline.storage import is_audio_name
from shards.plan import clip_table

LABELS_COLUMN = "labels"
PLACES = ("path", "member", "offset", "num_bytes", "row_group", "row")

Place = dict[str, Any]


def places(root: str, part: SegmentSet, ids: pa.ChunkedArray) -> dict[str, list[Any]]:
    """Plan columns that say where each clip lies; one that no file holds is named as a member of
    the pattern, without a place, and will be missing."""
    scan = _tar_places if part.storage == "tar" else _parquet_places
    found: dict[str, Place] = {}
    for path in _files(root, part):
        for clip_id, place in scan(root, path):
            if clip_id not in found or _is_better(place, found[clip_id]):
                found[clip_id] = place
    rows = [found.get(clip_id) or _nowhere(part, clip_id) for clip_id in ids.to_pylist()]
    return {name: [row[name] for row in rows] for name in PLACES}


def _is_better(place: Place, known: Place) -> bool:
    """Of the members of one id, audio counts more than what lies beside it (`a.json`, `a.wav`);
    of two with one name, tar's rule is that the last one stands."""
    if place["path"] == known["path"] and place["member"] == known["member"]:
        return place["offset"] is not None
    return is_audio_name(place["member"]) and not is_audio_name(known["member"])


def _nowhere(part: SegmentSet, clip_id: str) -> Place:
    return {**dict.fromkeys(PLACES), "path": part.files, "member": clip_id}


def parquet_rows(root: str, name: str, part: SegmentSet) -> pa.Table:
    """A set whose Parquet files are the list: plan columns, and `mids` from their labels."""
    tables = []
    for path in _files(root, part):
        found = list(_parquet_places(root, path))
        mids = _texts(root, path, _column(root, path, LABELS_COLUMN), pa.list_(pa.string()))
        table = clip_table(
            len(found),
            {
                "id": [clip_id for clip_id, _ in found],
                "set": [name] * len(found),
                "split": [part.split] * len(found),
                **{key: [place[key] for _, place in found] for key in PLACES},
            },
        )
        tables.append(table.append_column("mids", mids))
    return pa.concat_tables(tables)


def _files(root: str, part: SegmentSet) -> list[str]:
    found = storage.find(root, part.files)
    if not found:
        raise InputError(f"source: nothing at {storage.join(root, part.files)}")
    return found


def _tar_places(root: str, path: str) -> Iterator[tuple[str, Place]]:
    """Members of a tar file; links, directories and sparse members hold no bytes of their own."""
    try:
        with (
            storage.open_binary(root, path) as file,
            tarfile.open(fileobj=file, mode="r:", errorlevel=0) as tar,
        ):
            for member in tar:
                if member.isreg() and not member.issparse():
                    clip_id = member.name.rpartition("/")[2].rpartition(".")[0]
                    yield (
                        clip_id,
                        {
                            **dict.fromkeys(PLACES),
                            "path": path,
                            "member": member.name,
                            "offset": member.offset_data,
                            "num_bytes": member.size,
                        },
                    )
            _require_the_end(root, path, file, tar.offset)
    except tarfile.TarError as error:
        raise InputError(f"{storage.join(root, path)} is no tar file: {error}") from None


def _require_the_end(root: str, path: str, file: IO[bytes], offset: int) -> None:
    """Raises InputError where the scan ended at something that is no header and no end: what is
    behind it would be lost without a word."""
    file.seek(offset)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) == tarfile.BLOCKSIZE and any(block):
        raise InputError(f"{storage.join(root, path)}: the header at byte {offset} is damaged")


def _parquet_places(root: str, path: str) -> Iterator[tuple[str, Place]]:
    with storage.open_binary(root, path) as file:
        reader = _parquet(root, path, file)
        for group in range(reader.metadata.num_row_groups):
            column = reader.read_row_group(group, columns=[ID_COLUMN]).column(ID_COLUMN)
            ids = _texts(root, path, column, pa.string())
            for row, clip_id in enumerate(ids.to_pylist()):
                yield (
                    clip_id,
                    {
                        **dict.fromkeys(PLACES),
                        "path": path,
                        "member": clip_id,
                        "row_group": group,
                        "row": row,
                    },
                )


def _column(root: str, path: str, name: str) -> pa.ChunkedArray:
    with storage.open_binary(root, path) as file:
        table = _parquet(root, path, file).read(columns=[name])
        if name not in table.column_names:
            raise _other_columns(root, path)
        return table.column(name)


def _parquet(root: str, path: str, file: Any) -> pq.ParquetFile:
    try:
        reader = pq.ParquetFile(file, pre_buffer=False)
    except pa.ArrowInvalid as error:
        raise InputError(f"{storage.join(root, path)} is no Parquet file: {error}") from None
    leaves = {reader.schema.column(number).path for number in range(len(reader.schema))}
    for needed in (ID_COLUMN, AUDIO_COLUMN):
        if needed not in leaves:
            raise _other_columns(root, path)
    return reader


def _other_columns(root: str, path: str) -> InputError:
    return InputError(
        f"{storage.join(root, path)}: it needs the columns {ID_COLUMN} (text), {AUDIO_COLUMN} "
        f"(binary) and {LABELS_COLUMN} (lists of text), without gaps, as agkphysics/AudioSet has "
        "them"
    )


def _texts(root: str, path: str, column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """A column as text, or as lists of it; raises InputError where it is neither."""
    try:
        texts = column.cast(kind)
    except pa.ArrowException:
        raise _other_columns(root, path) from None
    inner = texts.combine_chunks().flatten() if pa.types.is_list(kind) else texts
    if texts.null_count or inner.null_count or pa.types.is_integer(column.type):
        raise _other_columns(root, path)
    return texts
