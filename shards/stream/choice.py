"""From the config's `data` section to examples and their order: the same for training and audit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from configs.data import DataConfig
from configs.errors import InputError
from configs.schema import SplitConfig
from shards import plan as plans
from shards.index import decoded, open_shards, read_index
from shards.layout import Layout
from shards.plan import ClassName, Task
from shards.ragged import Indices, starts_of
from shards.splits import (
    NO_SPLIT,
    SPLIT_COLUMNS,
    SPLITS,
    TEST,
    SplitCodes,
    SplitInputs,
    split_codes,
)
from shards.stream.order import GlobalOrder, Order, WeightedOrder, WindowOrder, balancing_weights

Labels = npt.NDArray[np.int16]
SHOWN, SHOWN_CLASSES = 5, 20  # of ids, and of classes, in an error


class Labelled(Protocol):
    """A source whose examples have labels."""

    @property
    def unit_sizes(self) -> Indices:
        """Examples of each unit of storage (a block, some chunks), in stored order."""
        ...

    def labels(self, rows: Indices) -> tuple[Labels, Indices]:
        """Of some rows, flat, and where each row's begin: [rows + 1]."""
        ...


@dataclass(frozen=True)
class Choice:
    """The decoded clips of a run, and what a training has of them."""

    ids: tuple[str, ...]  # of all clips, by row
    splits: SplitCodes  # of all clips; NO_SPLIT for those that are left out
    task: Task
    classes: tuple[ClassName, ...]  # of the data set
    learnt: tuple[int, ...]  # the numbers of those to learn

    def rows(self, split: str) -> Indices:
        """The clips of a split, in stored order."""
        return np.flatnonzero(self.splits == SPLITS.index(split))


def choose(layout: Layout, config: DataConfig, split: SplitConfig, fold: int | None) -> Choice:
    """What `config` chooses of a run; raises InputError where it names what is not there, or
    leaves nothing to train on or to test on."""
    plan = plans.load_bound(layout)
    inputs = SplitInputs.of_index(
        decoded(read_index(layout, open_shards(layout).records, [*SPLIT_COLUMNS, "status"]))
    )
    learnt, whole = _chosen_classes(config, plan.classes), split_codes(inputs, split, fold)
    codes = _without_the_rest(config, whole, inputs, learnt)
    choice = Choice(tuple(inputs.ids), codes, plan.task, plan.classes, tuple(learnt))
    held_out = "test" if TEST in whole else "valid"
    missing = [name for name in ("train", held_out) if not len(choice.rows(name))]
    if missing and (config.classes or config.ids):
        raise InputError(
            f"{_named(config)}: no clip of split {' or '.join(missing)} is chosen: choose some of "
            "every split, those to test on, too"
        )
    if missing:
        raise InputError(
            "split: no clip is left to test or validate on: raise split.valid_share, or give more "
            "clips (those of one group, as the windows of a file, stay together)"
        )
    return choice


def _named(config: DataConfig) -> str:
    return " and ".join(f"data.{name}" for name in ("classes", "ids") if getattr(config, name))


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


def _chosen_classes(config: DataConfig, classes: Sequence[ClassName]) -> list[int]:
    """The numbers of the classes to learn, in the order of the data set; raises InputError for a
    class that it does not have."""
    if not config.classes:
        return list(range(len(classes)))
    known = {word: number for number, name in enumerate(classes) for word in vars(name).values()}
    unknown = [word for word in config.classes if word not in known]
    if unknown:
        known_names = [name.name for name in classes]
        near = {hint for word in unknown for hint in get_close_matches(word, known_names, n=1)}
        hint = f" (did you mean {' or '.join(sorted(near))}?)" if near else ""
        listed = sorted(known_names)[:SHOWN_CLASSES]
        listed += ["..."] if len(known_names) > SHOWN_CLASSES else []
        raise InputError(
            f"data.classes: the data set has no class {', '.join(unknown)}{hint}; it has "
            + ", ".join(listed)
        )
    return sorted({known[word] for word in config.classes})


def _without_the_rest(
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
            f"data.ids: {path}: {len(unknown)} of its lines are no ids of clips of the run, as "
            f"{', '.join(map(repr, unknown[:SHOWN]))}; it has to hold one id a line"
        )
    return listed
