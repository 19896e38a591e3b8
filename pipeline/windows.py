"""Cut long files into clips `<id>_<start in ms>`, before anything is decoded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from configs.console import Progress
from configs.sources import WindowsConfig
from pipeline.audio.refusal import ClipRefused
from pipeline.audio.sandbox import Sandbox
from pipeline.reading import ClipReader
from shards.plan import CLIP_SCHEMA, Catalogue


def cut(catalogue: Catalogue, root: str, config: WindowsConfig) -> Catalogue:
    """The catalogue with every clip replaced by its windows.

    Reads the headers of all files. A file that cannot be read, or does not say how long it is,
    stays one clip: decoding finds out what is wrong with it. All windows of a file are one group,
    unless the source groups files itself.
    """
    sandbox = Sandbox()
    rows: list[dict[str, Any]] = []
    try:
        with (
            ClipReader(root, sandbox.buffer) as reader,
            Progress("windows", catalogue.clips.num_rows, "files") as progress,
        ):
            for batch in catalogue.clips.to_batches(max_chunksize=1024):
                for row in batch.to_pylist():
                    rows += _windows_of(row, reader, sandbox, config)
                progress.advance(batch.num_rows)
    finally:
        sandbox.close()
    return Catalogue(
        pa.Table.from_pylist(rows, CLIP_SCHEMA),
        catalogue.classes,
        catalogue.task,
        catalogue.left_out,
    )


def starts_ms(seconds: float, config: WindowsConfig) -> Iterator[tuple[int, int]]:
    """(start, end) of the windows of a file in milliseconds; a short file is one window."""
    total, length, step = (round(s * 1000) for s in (seconds, config.length_s, config.step_s))
    yield 0, min(length, total)
    for start in range(step, total, max(step, 1)):
        end = min(start + length, total)
        if end - start < min(config.min_s * 1000, length):
            return
        yield start, end


def _windows_of(
    row: Mapping[str, Any], reader: ClipReader, sandbox: Sandbox, config: WindowsConfig
) -> list[dict[str, Any]]:
    if row["start_s"] is not None:  # the source cut it already
        return [dict(row)]
    try:
        seconds = sandbox.seconds(reader.read(row, hashes=False).given)
    except ClipRefused:
        seconds = None
    if seconds is None:
        return [dict(row)]
    return [
        {
            **row,
            "id": f"{row['id']}_{start}",
            "group": row["group"] or row["id"],
            "start_s": start / 1000,
            "end_s": end / 1000,
            "duration_s": (end - start) / 1000,
        }
        for start, end in starts_ms(seconds, config)
    ]
