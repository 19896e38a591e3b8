"""Token sets as training data: splits, batches, and which rows a step sees.

Legend: B clips in a batch, T tokens of the longest, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from configs.errors import InputError, IntegrityError
from configs.schema import SplitConfig
from shards import plan as plans
from shards.codebook import Codebook, open_codebook
from shards.index import decoded, open_shards, read_index
from shards.keys import key_of
from shards.layout import Layout
from shards.plan import ClassName, Task
from shards.splits import SPLIT_COLUMNS, SPLITS, SplitCodes, SplitInputs, split_codes
from shards.tokens import TokenReader, open_tokens

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """Some clips: padded token ids, true lengths, and targets (multi-hot)."""

    tokens_BT: torch.Tensor  # int64; `pad_id` beyond a clip's length
    lengths_B: torch.Tensor  # int64
    targets_BC: torch.Tensor  # float32, 0 or 1

    def to(self, device: torch.device) -> Batch:
        return Batch(
            self.tokens_BT.to(device), self.lengths_B.to(device), self.targets_BC.to(device)
        )


@dataclass(frozen=True)
class TokenData:
    """A sealed token set with its classes and the split of every clip."""

    reader: TokenReader
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
        return int(self.reader.lengths().max())

    def rows(self, split: str) -> Rows:
        """Rows of the clips of a split, in stored order."""
        return np.flatnonzero(self.splits == SPLITS.index(split))

    @property
    def test_split(self) -> str:
        """`test`, or `valid` for a set without test clips."""
        return "test" if len(self.rows("test")) else "valid"

    @cached_property
    def _labels(self) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int64]]:
        return self.reader.labels()

    def targets(self, rows: Rows) -> npt.NDArray[np.float32]:
        """Multi-hot labels [B, C] of some rows."""
        flat, starts = self._labels
        targets_BC = np.zeros((len(rows), len(self.classes)), dtype=np.float32)
        for place, row in enumerate(rows):
            targets_BC[place, flat[starts[row] : starts[row + 1]]] = 1.0
        return targets_BC

    def batch(self, rows: Rows) -> Batch:
        """Some clips, padded to the longest of them."""
        clips = self.reader.tokens(rows)
        lengths_B = np.array([len(clip) for clip in clips], dtype=np.int64)
        tokens_BT = np.full((len(rows), int(lengths_B.max())), self.pad_id, dtype=np.int64)
        for place, clip in enumerate(clips):
            tokens_BT[place, : len(clip)] = clip[:, 0]
        return Batch(
            torch.from_numpy(tokens_BT),
            torch.from_numpy(lengths_B),
            torch.from_numpy(self.targets(rows)),
        )

    def batches(self, rows: Rows, at_once: int) -> Iterator[Batch]:
        """All of some rows in their order, `at_once` at a time."""
        for start in range(0, len(rows), at_once):
            yield self.batch(rows[start : start + at_once])


def open_data(layout: Layout, name: str, split: SplitConfig, fold: int | None) -> TokenData:
    """Open the tokens of a codebook; raises NotMadeYet, InputError or IntegrityError."""
    reader = open_tokens(layout, name)
    codebook, fingerprint = open_codebook(layout, name)
    plan = plans.load_bound(layout)
    if plan.task == "regression":
        raise InputError(f"{layout.root}: its targets are numbers; models here learn labels")
    table = read_index(layout, open_shards(layout).records, [*SPLIT_COLUMNS, "status"])
    inputs = SplitInputs.of_index(decoded(table))
    if [key_of(clip_id) for clip_id in inputs.ids] != reader.keys():
        raise IntegrityError(f"{layout.root}: the tokens of {name} are not of these frames")
    splits = split_codes(inputs, split, fold)
    data = TokenData(
        reader, codebook, fingerprint, plan.classes, plan.task, tuple(inputs.ids), splits
    )
    if not len(data.rows(data.test_split)):
        raise InputError(
            "split: no clip is left to test or validate on: raise split.valid_share, or give more "
            "clips (those of one group, as the windows of a file, stay together)"
        )
    return data
