"""What was drawn from all shards, gathered for training.

Training reads layer after layer, many times, and a layer has a few rows of each of thousands of
shards. So rows are copied once, into files that lie in reading order. These have no name in the
file system: they end with the process, and a killed one leaves nothing.

Legend: N drawn rows, B some of them, M numbers in a stored frame, D in a vector.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

from pipeline.audio.front_end import FramesTM
from pipeline.audio.steps import VectorsTD
from pipeline.draw import COLUMNS, HOLDOUT, MASKED_COUNT, MASKED_SUM, TRAINING
from pipeline.kmeans import WeightsN
from pipeline.workplace import Workplace


class _Column:
    """One value of every row, in a file that is gone once nobody holds this."""

    def __init__(self, directory: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._row = np.dtype((dtype, shape))
        self._file, path = tempfile.mkstemp(dir=directory)
        weakref.finalize(self, os.close, self._file)
        Path(path).unlink()

    def write(self, first: int, values: npt.NDArray[Any]) -> None:
        _whole(os.pwritev, self._file, np.ascontiguousarray(values), first * self._row.itemsize)

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        values = np.empty((stop - start, *self._shape), dtype=self._row.base)
        _whole(os.preadv, self._file, values, start * self._row.itemsize)
        return values


def _whole(
    move: Callable[[int, list[memoryview], int], int],
    file: int,
    values: npt.NDArray[Any],
    offset: int,
) -> None:
    """Reads or writes all of an array; a call moves 2 GiB at most, and less on a full disk."""
    left = values.reshape(-1).view(np.uint8).data
    while len(left):
        moved = move(file, [left], offset)
        assert moved, "read beyond the end"
        left, offset = left[moved:], offset + moved


@dataclass(frozen=True)
class DrawnRows:
    """Drawn rows in reading order: any stretch of them is a fair sample.

    Args:
        silence: what a frame of digital silence weighs, beside 1 of any other.
    """

    columns: Mapping[str, _Column]
    num_rows: int
    silence: float = 1.0

    def __len__(self) -> int:
        return self.num_rows

    def read(self, rows: slice) -> tuple[VectorsTD, WeightsN]:
        """Vectors [B, D] and weights [B] of some rows."""
        weights_B = self._column("weights", rows)
        if self.silence != 1.0:
            is_silence_B = self._column("is_digital_silence", rows)
            weights_B = np.where(is_silence_B, weights_B * np.float32(self.silence), weights_B)
        return self._column("vectors", rows), weights_B

    def frames(self, rows: slice) -> FramesTM:
        """Stored frames [B, M] of some rows."""
        return self._column("frames", rows)

    def total_weights(self) -> tuple[float, float]:
        """How many frames were drawn, and how many of them are digital silence."""
        weights_N = self._column("weights", slice(0, len(self)))
        is_silence_N = self._column("is_digital_silence", slice(0, len(self)))
        return float(weights_N.sum()), float(weights_N[is_silence_N].sum())

    def capped(self, most_silence: float) -> Self:
        """The same, with digital silence weighing no more than a share of everything."""
        total, silence = self.total_weights()
        if silence <= most_silence * total or most_silence == 1 or silence == total:
            return self  # where there is nothing else, silence is what there is to learn
        weight = most_silence / (1 - most_silence) * (total - silence) / silence
        return replace(self, silence=weight)

    def _column(self, name: str, rows: slice) -> npt.NDArray[Any]:
        return self.columns[name].read(rows.start, max(rows.start, min(rows.stop, len(self))))


@dataclass(frozen=True)
class Drawn:
    """What was drawn to train on and to measure on, and the mean [M] of the frames of training
    clips that are masked; None where none is."""

    train: DrawnRows
    holdout: DrawnRows
    masked_M: npt.NDArray[np.float64] | None


def gather(place: Workplace, num_shards: int) -> Drawn:
    """All that was drawn from the shards of a workplace."""
    sums = [_tensor(place, shard, MASKED_SUM) for shard in range(num_shards)]
    count = sum(int(_tensor(place, shard, MASKED_COUNT)[0]) for shard in range(num_shards))
    return Drawn(
        _gathered(place, num_shards, TRAINING),
        _gathered(place, num_shards, HOLDOUT),
        np.asarray(np.sum(sums, axis=0) / count) if count else None,
    )


def _gathered(place: Workplace, num_shards: int, part: str) -> DrawnRows:
    starts = [_tensor(place, shard, f"{part}.starts") for shard in range(num_shards)]
    starts_SL = np.stack(starts).astype(np.int64)
    sizes_LS = np.diff(starts_SL, axis=1).T
    places_LS = np.cumsum(sizes_LS).reshape(sizes_LS.shape) - sizes_LS
    columns: dict[str, _Column] = {}
    for name, dtype in COLUMNS.items():
        for shard in range(num_shards):
            values = _tensor(place, shard, f"{part}.{name}")
            if name not in columns:
                columns[name] = _Column(place.directory, dtype, values.shape[1:])
            stretches = np.split(values, starts_SL[shard, 1:-1])
            for first, stretch in zip(places_LS[:, shard].tolist(), stretches, strict=True):
                columns[name].write(first, stretch)
    return DrawnRows(columns, int(sizes_LS.sum()))


def _tensor(place: Workplace, shard: int, name: str) -> npt.NDArray[Any]:
    with safe_open(place.drawn(shard), framework="numpy") as file:
        return np.asarray(file.get_tensor(name))
