"""What is changed of the clips that a training sees, and of no others.

All of it is drawn from the seeds of a piece, which are functions of (seed, epoch, position): so a
clip is changed alike whichever worker, rank or micro-batch it falls to, and again after a kill.
Only whom mixup mixes it with is up to its micro-batch.

Legend: B clips of a batch, T places of the longest, N numbers at each, M mel bins, P points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import betaincinv

from configs.augment import Augment, SpanMasks
from pipeline.audio.change import Level, ShiftM, shifted, stretched
from pipeline.audio.front_end import FramesTM
from pipeline.audio.half import to_float32
from shards.stream.batches import ClipBatch
from shards.stream.frames import FrameChunk, FrameSource
from shards.stream.keyed import CHANGES, MASKS, MIXES, draws
from shards.stream.schedule import Piece
from train.inputs import Inputs, padded
from train.models.classifier import Mix

NUM_POINTS = 6  # of an equaliser's curve
GAIN, STRETCH, CURVE = range(3)  # what is drawn

Seeds = npt.NDArray[np.uint64]
Draws = npt.NDArray[np.float64]
Made = Callable[[Sequence[FramesTM]], Sequence[npt.NDArray[Any]]]


def drawn(seeds_B: Seeds, *key: int) -> Draws:
    """A number from [0, 1) for every clip."""
    return draws(seeds_B.view(np.int64), *key)


# --- spans that are hidden -----------------------------------------------------------------------


@dataclass(frozen=True)
class Masked:
    """Inputs with spans of every clip hidden: tokens as padding, vectors as the clip's mean."""

    inputs: Inputs
    config: SpanMasks
    pad_id: int

    @property
    def source(self) -> Any:
        return self.inputs.source

    @property
    def longest(self) -> int:
        return self.inputs.longest

    def batch(
        self, chunk: Any, piece: Piece, width: int | None = None
    ) -> tuple[torch.Tensor, ClipBatch]:
        inputs_BTN, found = self.inputs.batch(chunk, piece, width)
        hidden_BT = spans(self.config, found.lengths_B, found.seeds_B, inputs_BTN.shape[1])
        if inputs_BTN.is_floating_point():
            hide_vectors(inputs_BTN.numpy(), hidden_BT, found.lengths_B)
        else:
            inputs_BTN.numpy()[hidden_BT] = self.pad_id
        return inputs_BTN, found


def spans(
    config: SpanMasks, lengths_B: npt.NDArray[np.int32], seeds_B: Seeds, num_places: int
) -> npt.NDArray[np.bool_]:
    """Which places [B, T] of clips are hidden. All spans of a clip together are shorter than it."""
    place_T = np.arange(num_places)
    longest_B = np.minimum(config.longest, (lengths_B - 1) // config.count)
    hidden_BT = np.zeros((len(lengths_B), num_places), dtype=np.bool_)
    for number in range(config.count):
        size_B = np.floor(drawn(seeds_B, MASKS, number, 0) * (longest_B + 1))
        start_B = np.floor(drawn(seeds_B, MASKS, number, 1) * (lengths_B - size_B + 1))
        hidden_BT |= (place_T >= start_B[:, None]) & (place_T < (start_B + size_B)[:, None])
    return hidden_BT


def hide_vectors(
    vectors_BTN: npt.NDArray[np.float32],
    hidden_BT: npt.NDArray[np.bool_],
    lengths_B: npt.NDArray[np.int32],
) -> None:
    """Put the mean over a clip's own places where it is hidden."""
    triples = zip(vectors_BTN, hidden_BT, lengths_B.tolist(), strict=True)
    for vectors_TN, hidden_T, length in triples:
        if hidden_T.any():
            vectors_TN[hidden_T] = vectors_TN[:length].mean(axis=0)


# --- frames that are changed ---------------------------------------------------------------------


@dataclass(frozen=True)
class Augmented:
    """Inputs that are made anew, of changed frames; with all amounts 0, they are those on disk.

    Args:
        source: of the stored frames.
        made: what is read of clips, by their frames: the very function of the stages.
        filling: what stands beyond a clip's end.
        config: how far frames are changed.
        level: what they say of power.
        longest: places of the longest clip that is stored; no changed one is longer.
    """

    source: FrameSource
    made: Made
    filling: np.generic
    config: Augment
    level: Level
    longest: int

    def batch(
        self, chunk: FrameChunk, piece: Piece, width: int | None = None
    ) -> tuple[torch.Tensor, ClipBatch]:
        found = ClipBatch(**chunk.of_batch(piece))
        parts = self.made(self.changed(chunk.clips_of(piece), found.seeds_B))
        lengths_B = np.array([len(part_TN) for part_TN in parts], dtype=np.int32)
        return padded(parts, self.filling, width), replace(found, lengths_B=lengths_B)

    def changed(self, clips: Sequence[FramesTM], seeds_B: Seeds) -> list[FramesTM]:
        """Clips as drawn."""
        factor_B = 1 + self.config.stretch * _signed(seeds_B, STRETCH)
        shifts = self._shifts(seeds_B, clips[0].shape[1])
        return [
            self._one(to_float32(clip_TM), factor, shift_M)
            for clip_TM, factor, shift_M in zip(clips, factor_B.tolist(), shifts, strict=True)
        ]

    def _one(self, frames_TM: FramesTM, factor: float, shift_M: ShiftM) -> FramesTM:
        if self.config.stretch:
            frames_TM = stretched(frames_TM, factor, self.longest)
        if self.config.gain_db or self.config.equaliser_db:
            frames_TM = shifted(frames_TM, shift_M, self.level)
        return frames_TM

    def _shifts(self, seeds_B: Seeds, num_bins: int) -> list[ShiftM]:
        """By how many dB each bin of each clip gets louder."""
        gain_B = self.config.gain_db * _signed(seeds_B, GAIN)
        points_PB = [
            self.config.equaliser_db * _signed(seeds_B, CURVE, point) for point in range(NUM_POINTS)
        ]
        bin_M, bin_P = np.arange(num_bins), np.linspace(0, num_bins - 1, NUM_POINTS)
        curves = [np.interp(bin_M, bin_P, points_P) for points_P in np.stack(points_PB, axis=1)]
        return [
            (gain + curve_M).astype(np.float32)
            for gain, curve_M in zip(gain_B.tolist(), curves, strict=True)
        ]


def _signed(seeds_B: Seeds, *key: int) -> Draws:
    """A number from [-1, 1) for every clip."""
    return 2 * drawn(seeds_B, CHANGES, *key) - 1


# --- clips that are mixed ------------------------------------------------------------------------


def mix_of(weights_B: npt.NDArray[np.float32], seeds_B: Seeds, alpha: float) -> Mix:
    """Mixup of each clip that counts with the next one of the batch, in shares of
    Beta(alpha, alpha)."""
    counted = np.flatnonzero(weights_B)
    partners_B = np.arange(len(weights_B))
    partners_B[counted] = np.roll(counted, -1)
    shares_B = betaincinv(alpha, alpha, drawn(seeds_B, MIXES)).astype(np.float32)
    return Mix(torch.from_numpy(shares_B), torch.from_numpy(partners_B))
