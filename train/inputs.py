"""What models read of clips: tokens, or vectors of frames.

Legend: B clips in a batch, T places of the longest, N numbers at each (Q tokens, or a vector).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from pipeline.audio.front_end import FramesTM, FrontEnd
from pipeline.audio.half import to_float32
from pipeline.audio.steps import VectorsTD
from shards.stream.batches import ClipBatch
from shards.stream.frames import FrameChunk, FrameSource
from shards.stream.schedule import Piece
from shards.stream.tokens import TokenChunk, TokenSource, token_batch


class Inputs(Protocol):
    """Where they are stored, and how a batch is made of what was read."""

    @property
    def source(self) -> Any:
        """A `shards.stream.stream.Source`, whose rows are those of the token set."""

    @property
    def longest(self) -> int:
        """Places of the longest clip."""

    def batch(
        self, chunk: Any, piece: Piece, width: int | None = None
    ) -> tuple[torch.Tensor, ClipBatch]:
        """Inputs [B, T, N], padded to so many places if the longest has fewer, and what else is
        known of the clips."""


@dataclass(frozen=True)
class Tokens:
    """int64 ids, `pad_id` beyond a clip's length."""

    source: TokenSource
    pad_id: int

    @property
    def longest(self) -> int:
        return int(self.source.index.longest.max(initial=0))

    def batch(
        self, chunk: TokenChunk, piece: Piece, width: int | None = None
    ) -> tuple[torch.Tensor, ClipBatch]:
        found = token_batch(chunk, piece, pad_id=self.pad_id, width=width)
        return torch.from_numpy(found.tokens_BTQ), found


@dataclass(frozen=True)
class Frames:
    """float32 vectors, as a front end makes them, or frames in dB as stored (None); 0 beyond a
    clip's length."""

    source: FrameSource
    front_end: FrontEnd | None

    @property
    def longest(self) -> int:
        return int(self.source.lengths(np.arange(self.source.num_rows)).max(initial=0))

    @property
    def num_numbers(self) -> int:
        """N, of a vector."""
        return width_of(self.front_end, self.source.num_mels)

    def batch(
        self, chunk: FrameChunk, piece: Piece, width: int | None = None
    ) -> tuple[torch.Tensor, ClipBatch]:
        parts = self.made(chunk.clips_of(piece))
        return padded(parts, np.float32(0), width), ClipBatch(**chunk.of_batch(piece))

    def made(self, clips: Sequence[FramesTM]) -> list[VectorsTD]:
        """What is read of clips, by their stored frames."""
        return made_of(self.front_end, clips)


def width_of(front_end: FrontEnd | None, num_bins: int) -> int:
    """Numbers in what is made of a frame of so many."""
    return num_bins if front_end is None else front_end.config.width(num_bins)


def made_of(front_end: FrontEnd | None, clips: Sequence[FramesTM]) -> list[VectorsTD]:
    """The vectors that a front end makes of clips' stored frames, or those as they are."""
    if front_end is None:
        return [to_float32(clip_TM) for clip_TM in clips]
    vectors_SN = front_end.vectors_of(clips, [slice(None)] * len(clips))
    return np.split(vectors_SN, np.cumsum([len(clip_TM) for clip_TM in clips])[:-1])


def padded(
    parts: Sequence[npt.NDArray[Any]], filling: np.generic, width: int | None = None
) -> torch.Tensor:
    """Clips [T, N] as one tensor [B, T, N] of the type of what fills it up."""
    longest = max(width or 0, *(len(part_TN) for part_TN in parts))
    values_BTN = np.full((len(parts), longest, parts[0].shape[1]), filling)
    for values_TN, part_TN in zip(values_BTN, parts, strict=True):
        values_TN[: len(part_TN)] = part_TN
    return torch.from_numpy(values_BTN)
