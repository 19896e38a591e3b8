"""What a training logs, as an event file of TensorBoard: a function of metrics.jsonl, but for when
each record was written.

The file is made anew from the records that a resumed training keeps: nothing is in it twice, and
nothing that a kill took back. A record is appended as a line of the journal is, with nothing held
open: it is there at once, for TensorBoard and after a kill.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from shards.atomic import write_whole

BOARD_NAME = "tensorboard"
FILE_NAME = "events.out.tfevents.metrics"  # TensorBoard looks for the middle of it
VERSION = "brain.Event:2"

Record = Mapping[str, Any]


def refuse_without_tensorboard() -> None:
    """Raises ConfigError where it is not installed."""
    if find_spec("tensorboard") is None:
        raise ConfigError(
            "train",
            [
                "tensorboard=true needs the package tensorboard: pip install '.[tensorboard]', or "
                "leave it out (metrics.jsonl has the same numbers)"
            ],
        )


class Board:
    """The event file in a directory; `partial` is where it is written anew before it appears. One
    that is off shows nothing: what it showed before would be of steps that a kill took back."""

    def __init__(self, directory: Path, partial: Path, *, is_on: bool = True) -> None:
        self.path, self._partial, self._is_on = directory / FILE_NAME, partial, is_on

    def begin(self, records: Iterable[Record]) -> None:
        """Let it hold these records, and nothing else."""
        if not self._is_on:
            self.path.unlink(missing_ok=True)
            return
        data = _framed(file_version=VERSION) + b"".join(map(_event, records))
        write_whole(self._partial, self.path, data)

    def append(self, record: Record) -> None:
        if not self._is_on:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(_event(record))


def scalars(record: Record) -> Iterator[tuple[str, float]]:
    """The numbers of a record and their tags; `clips_per_s` counts the wait for the loader, too."""
    for name, value in record.items():
        if name == "gradient_flow":
            for parameter, (mean, largest) in value.items():
                yield f"{name}/mean/{parameter}", mean
                yield f"{name}/max/{parameter}", largest
        elif name != "step" and isinstance(value, int | float):
            yield name, float(value)
    if {"clips", "seconds", "waited_s"} <= record.keys():
        yield "clips_per_s", record["clips"] / max(record["seconds"] + record["waited_s"], 1e-9)


def _event(record: Record) -> bytes:
    """A record as bytes of an event file; none where it holds no number."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars(record)]
    return _framed(step=record["step"], summary=Summary(value=values)) if values else b""


def _framed(**fields: Any) -> bytes:
    """An event with its length and checksums."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    framed = io.BytesIO()
    RecordWriter(framed).write(Event(wall_time=time.time(), **fields).SerializeToString())
    return framed.getvalue()
