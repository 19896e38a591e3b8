"""What is known of clips beside their content, in chunks that were read and in batches.

Legend: N rows asked for, B clips of a batch, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.ragged import Indices
from shards.stream.blocks import Keys
from shards.stream.schedule import Piece


@dataclass(frozen=True)
class ClipRows:
    """Some clips, in the order in which they were asked for."""

    rows_N: Indices
    keys_N: Keys
    lengths_N: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int16]  # of all clips, flat
    label_starts: Indices  # [N + 1]

    def of_batch(self, piece: Piece) -> dict[str, Any]:
        """What a ClipBatch says of a piece of them."""
        starts = self.label_starts[piece.start : piece.stop + 1]
        return {
            "rows_B": self.rows_N[piece.rows],
            "keys_B": self.keys_N[piece.rows],
            "lengths_B": self.lengths_N[piece.rows],
            "weights_B": piece.weights,
            "seeds_B": piece.seeds,
            "labels": self.labels[starts[0] : starts[-1]],
            "label_starts": starts - starts[0],
        }


@dataclass(frozen=True)
class ClipBatch:
    """Some clips of a micro-batch. Those of weight 0 only fill the batch up."""

    rows_B: Indices
    keys_B: Keys
    lengths_B: npt.NDArray[np.int32]
    weights_B: npt.NDArray[np.float32]
    seeds_B: npt.NDArray[np.uint64]  # for what is drawn for a clip, as a crop
    labels: npt.NDArray[np.int16]  # of all clips, flat
    label_starts: Indices  # [B + 1]

    @property
    def keys(self) -> list[str]:
        """The tar keys of the clips."""
        return decoded(self.keys_B)

    def targets(self, num_classes: int) -> npt.NDArray[np.float32]:
        """Multi-hot labels, [B, C]."""
        return multi_hot(self.labels, self.label_starts, num_classes)


def multi_hot(
    labels: npt.NDArray[np.int16], starts: Indices, num_classes: int
) -> npt.NDArray[np.float32]:
    """From flat label ids, and where each clip's begin [N + 1], to 0 and 1 [N, C]."""
    num_labels_N = starts[1:] - starts[:-1]
    targets_NC = np.zeros((len(num_labels_N), num_classes), dtype=np.float32)
    targets_NC[np.arange(len(num_labels_N)).repeat(num_labels_N), labels] = 1.0
    return targets_NC


def decoded(keys: Keys) -> list[str]:
    return [key.decode() for key in keys.tolist()]
