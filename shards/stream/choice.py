"""From the config's `data` section to examples and their order: the same for training and audit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from configs.data import DataConfig
from configs.errors import InputError
from shards.plan import ClassName
from shards.splits import NO_SPLIT, SplitCodes, SplitInputs
from shards.stream.keyed import Indices
from shards.stream.order import GlobalOrder, Order, WeightedOrder, WindowOrder, balancing_weights
from shards.stream.ragged import starts_of

Labels = npt.NDArray[np.int16]
SHOWN = 5  # ids in an error


class Labelled(Protocol):
    """A source whose examples have labels."""

    @property
    def unit_sizes(self) -> Indices:
        """Examples of each unit of storage (a block, some chunks), in stored order."""
        ...

    def labels(self, rows: Indices) -> tuple[Labels, Indices]:
        """Of some rows, flat, and where each row's begin: [rows + 1]."""
        ...


def order_of(
    config: DataConfig, source: Labelled, rows: Indices, seed: int, classes: Sequence[int]
) -> Order:
    """The order of some rows of a source, as examples 0, 1 ...; `classes` are those to learn."""
    if config.order == "window":
        units = np.searchsorted(np.cumsum(source.unit_sizes), rows, side="right")
        sizes = np.bincount(units)
        return WindowOrder(sizes[sizes > 0], config.window_blocks, seed)
    if config.order == "weighted":
        labels, starts = only_labels(*source.labels(rows), classes)
        return WeightedOrder(balancing_weights(labels, starts, config.balance), seed)
    return GlobalOrder(len(rows), seed)


def only_labels(labels: Labels, starts: Indices, classes: Sequence[int]) -> tuple[Labels, Indices]:
    """Without the labels of other classes: flat, and where each row's begin."""
    is_kept = np.isin(labels, np.asarray(classes))
    row_of = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    counts = np.bincount(row_of[is_kept], minlength=len(starts) - 1)
    return labels[is_kept], starts_of(counts)


def chosen_classes(config: DataConfig, classes: Sequence[ClassName]) -> list[int]:
    """The numbers of the classes to learn, in the order of the data set; raises InputError for a
    class that it does not have."""
    if not config.classes:
        return list(range(len(classes)))
    known = {word: number for number, name in enumerate(classes) for word in vars(name).values()}
    unknown = [word for word in config.classes if word not in known]
    if unknown:
        raise InputError(f"data.classes: the data set has no class {', '.join(unknown)}")
    return sorted({known[word] for word in config.classes})


def without_the_rest(
    config: DataConfig, codes: SplitCodes, inputs: SplitInputs, classes: Sequence[int]
) -> SplitCodes:
    """The split of every clip; NO_SPLIT for those that `data.classes` or `data.ids` leaves out."""
    is_kept = np.ones(len(codes), dtype=bool)
    if config.classes:
        wanted = set(classes)
        is_kept &= np.array([not wanted.isdisjoint(labels) for labels in inputs.labels], dtype=bool)
    if config.ids is not None:
        listed = _known(config.ids, inputs.ids)
        is_kept &= np.array([clip_id in listed for clip_id in inputs.ids], dtype=bool)
    return np.where(is_kept, codes, NO_SPLIT).astype(codes.dtype)


def listed_ids(path: Path) -> set[str]:
    """The ids of a file, one a line; raises InputError where it cannot be read."""
    try:
        return {line.strip() for line in path.read_text(encoding="utf-8").splitlines()} - {""}
    except OSError as error:
        raise InputError(f"data.ids: {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"data.ids: {path} is no text") from None


def _known(path: Path, known: Sequence[str]) -> set[str]:
    """The ids of a file; raises InputError where one is not of the data set."""
    listed = listed_ids(path)
    unknown = sorted(listed - set(known))
    if unknown:
        raise InputError(
            f"data.ids: {path}: {len(unknown)} of its ids are not among the clips of the run, as "
            f"{', '.join(unknown[:SHOWN])}"
        )
    return listed
