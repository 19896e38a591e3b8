"""The readers of a training by their names in the config, and what the loop asks of one."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Protocol

from configs.schema import TrainConfig
from shards.stream.sampler import Sampler
from shards.stream.schedule import Place, World
from shards.stream.stream import Step
from train.batches import Batch, Rows
from train.data import TokenData
from train.loader import LoaderProcesses
from train.sequential import SequentialStream


class Reader(Protocol):
    """Who gives a training its steps."""

    @property
    def sampler(self) -> Sampler:
        """What the steps are made of, and where they go on."""
        ...

    def steps(self, place: Place) -> Generator[Step[Batch], None, None]:
        """All steps from a place on; to be closed."""
        ...


def open_reader(
    data: TokenData, rows: Rows, train: TrainConfig, world: World | None = None
) -> Reader:
    """The reader that the config names, of some rows and of this rank's part of every step."""
    return READERS[data.config.reader](data, rows, train, world or World())


def _stream(data: TokenData, rows: Rows, train: TrainConfig, world: World) -> Reader:
    stream, num_workers = data.stream(rows, train, world), data.config.workers
    return LoaderProcesses(stream, num_workers) if num_workers else stream


READERS: dict[str, Callable[[TokenData, Rows, TrainConfig, World], Reader]] = {
    "stream": _stream,
    "webdataset": SequentialStream,
}
