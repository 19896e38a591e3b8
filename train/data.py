"""Token sets as training data: splits, batches, and which rows a step sees.

Legend: B clips in a batch, T tokens of the longest, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from configs.errors import InputError, IntegrityError
from configs.schema import SplitConfig, TrainConfig
from shards import plan as plans
from shards.codebook import Codebook, open_codebook
from shards.index import decoded, open_shards, read_index
from shards.keys import key_of
from shards.layout import Layout
from shards.plan import ClassName, Task
from shards.splits import SPLIT_COLUMNS, SPLITS, SplitCodes, SplitInputs, split_codes
from shards.stream.order import GlobalOrder, StoredOrder
from shards.stream.schedule import Piece, Schedule
from shards.stream.stream import Stream
from shards.stream.tokens import TokenChunk, TokenSource, multi_hot, open_tokens, token_batch

Rows = npt.NDArray[np.int64]
BatchStream = Stream[TokenChunk, "Batch"]


@dataclass(frozen=True)
class Batch:
    """Some clips: padded token ids, true lengths, targets (multi-hot), and which of them count."""

    rows_B: Rows
    tokens_BT: torch.Tensor  # int64; `pad_id` beyond a clip's length
    lengths_B: torch.Tensor  # int64
    targets_BC: torch.Tensor  # float32, 0 or 1
    weights_B: torch.Tensor  # float32; 0: it only fills the batch up

    def to(self, device: torch.device) -> Batch:
        tensors = (self.tokens_BT, self.lengths_B, self.targets_BC, self.weights_B)
        return Batch(self.rows_B, *(tensor.to(device) for tensor in tensors))


def _collated(chunk: TokenChunk, piece: Piece, *, pad_id: int, num_classes: int) -> Batch:
    found = token_batch(chunk, piece, pad_id=pad_id)
    return Batch(
        found.rows_B,
        torch.from_numpy(found.tokens_BTQ[:, :, 0]),  # models read one codebook
        torch.from_numpy(found.lengths_B.astype(np.int64)),
        torch.from_numpy(found.targets(num_classes)),
        torch.from_numpy(found.weights_B),
    )


@dataclass(frozen=True)
class TokenData:
    """A sealed token set with its classes and the split of every clip."""

    source: TokenSource
    codebook: Codebook
    codebook_fingerprint: str
    classes: tuple[ClassName, ...]
    task: Task
    ids: tuple[str, ...]
    splits: SplitCodes

    @property
    def pad_id(self) -> int:
        return self.codebook.k

    @property
    def longest(self) -> int:
        """Tokens of the longest clip of any split."""
        return int(self.source.lengths(self.source.all_rows).max())

    def rows(self, split: str) -> Rows:
        """Rows of the clips of a split, in stored order."""
        return np.flatnonzero(self.splits == SPLITS.index(split))

    @property
    def test_split(self) -> str:
        """`test`, or `valid` for a set without test clips."""
        return "test" if len(self.rows("test")) else "valid"

    def targets(self, rows: Rows) -> npt.NDArray[np.float32]:
        """Multi-hot labels [N, C] of some rows."""
        return multi_hot(*self.source.labels(rows), len(self.classes))

    def stream(self, rows: Rows, config: TrainConfig) -> BatchStream:
        """The steps of a training on some rows."""
        schedule = Schedule(len(rows), config.batch_size, config.epochs)
        return Stream(
            self.source,
            GlobalOrder(len(rows), config.seed),
            schedule,
            self._collate,
            rows=rows,
            micro_batch_size=config.forward_size,
        )

    def batches(self, rows: Rows, at_once: int) -> Iterator[Batch]:
        """All of some rows in their order, `at_once` at a time."""
        if not len(rows):
            return
        order, schedule = StoredOrder(len(rows)), Schedule(len(rows), at_once, num_epochs=1)
        stream = Stream(self.source, order, schedule, self._collate, rows=rows, num_threads=0)
        for step in stream.steps():
            yield from step.batches

    @property
    def _collate(self) -> Callable[[TokenChunk, Piece], Batch]:
        return partial(_collated, pad_id=self.pad_id, num_classes=len(self.classes))


def open_data(layout: Layout, name: str, split: SplitConfig, fold: int | None) -> TokenData:
    """Open the tokens of a codebook; raises NotMadeYet, InputError or IntegrityError."""
    source = open_tokens(layout, name)
    codebook, fingerprint = open_codebook(layout, name)
    plan = plans.load_bound(layout)
    if plan.task == "regression":
        raise InputError(f"{layout.root}: its targets are numbers; models here learn labels")
    table = read_index(layout, open_shards(layout).records, [*SPLIT_COLUMNS, "status"])
    inputs = SplitInputs.of_index(decoded(table))
    keys = source.keys(source.all_rows)
    if [key_of(clip_id) for clip_id in inputs.ids] != keys:
        raise IntegrityError(f"{layout.root}: the tokens of {name} are not of these frames")
    splits = split_codes(inputs, split, fold)
    data = TokenData(
        source, codebook, fingerprint, plan.classes, plan.task, tuple(inputs.ids), splits
    )
    if not len(data.rows(data.test_split)):
        raise InputError(
            "split: no clip is left to test or validate on: raise split.valid_share, or give more "
            "clips (those of one group, as the windows of a file, stay together)"
        )
    return data
