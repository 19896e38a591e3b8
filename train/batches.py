"""Batches for a model: what was read of some clips, with what they are to be told as.

Legend: B clips in a batch, T places of the longest, N numbers at each (Q tokens, or a vector), C
classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from shards.plan import ClassName
from shards.stream.batches import multi_hot
from shards.stream.schedule import Piece
from train.augment import mix_of
from train.inputs import Inputs
from train.models.classifier import Mix

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """Some clips: what a model reads of them, padded, true lengths, targets (multi-hot), and which
    of them count."""

    rows_B: Rows
    inputs_BTN: torch.Tensor  # int64 tokens, `pad_id` beyond a clip's length; or float32 vectors, 0
    lengths_B: torch.Tensor  # int64
    targets_BC: torch.Tensor  # float32 in [0, 1]
    weights_B: torch.Tensor  # float32; 0: it only fills the batch up, or is masked
    mix: Mix | None = None  # of inputs; that of targets is done

    def to(self, device: torch.device) -> Batch:
        """What is computed with; lengths stay on the CPU, which goes by them."""
        return replace(
            self,
            inputs_BTN=self.inputs_BTN.to(device),
            targets_BC=self.targets_BC.to(device),
            weights_B=self.weights_B.to(device),
            mix=self.mix and self.mix.to(device),
        )


def padding_share(batches: Sequence[Batch]) -> float:
    """How much of what a model is given is nothing of a clip that counts."""
    real = sum(int(batch.lengths_B[batch.weights_B > 0].sum()) for batch in batches)
    return 1.0 - real / max(1, sum(batch.inputs_BTN[:, :, 0].numel() for batch in batches))


@dataclass(frozen=True)
class Classes:
    """What is learnt: the classes, and which of them each class of the data set is (-1: none)."""

    names: tuple[ClassName, ...]
    columns: npt.NDArray[np.int16]

    @classmethod
    def chosen(cls, names: Sequence[ClassName], numbers: Sequence[int]) -> Self:
        columns = np.full(len(names), -1, dtype=np.int16)
        columns[list(numbers)] = np.arange(len(numbers))
        return cls(tuple(names[number] for number in numbers), columns)

    @property
    def numbers(self) -> list[int]:
        """Of the classes of the data set that are learnt."""
        return np.flatnonzero(self.columns >= 0).tolist()

    def targets(self, labels: npt.NDArray[np.int16], starts: Rows) -> npt.NDArray[np.float32]:
        """Multi-hot labels [N, C]; those that are not learnt fall into a column of their own."""
        targets_NC = multi_hot(self.columns[labels], starts, len(self.names) + 1)
        return np.ascontiguousarray(targets_NC[:, :-1])


def collate(
    chunk: Any,
    piece: Piece,
    *,
    inputs: Inputs,
    classes: Classes,
    width: int | None = None,
    mixup: float = 0.0,
) -> Batch:
    """A piece of what was read, padded to so many places if its longest clip has fewer; with
    `mixup`, inputs are to be mixed by the model, and targets are mixed."""
    inputs_BTN, found = inputs.batch(chunk, piece, width)
    batch = Batch(
        found.rows_B,
        inputs_BTN,
        torch.from_numpy(found.lengths_B.astype(np.int64)),
        torch.from_numpy(classes.targets(found.labels, found.label_starts)),
        torch.from_numpy(found.weights_B),
    )
    if not mixup:
        return batch
    mix = mix_of(found.weights_B, found.seeds_B, mixup)
    return replace(batch, targets_BC=mix.of(batch.targets_BC), mix=mix)
