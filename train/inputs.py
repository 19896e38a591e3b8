"""What models read of clips: tokens, or vectors of frames.

Legend: B clips in a batch, T places of the longest, N numbers at each (Q tokens, or a vector).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from pipeline.audio.front_end import FrontEnd
from shards.stream.batches import ClipBatch
from shards.stream.frames import FrameChunk, FrameSource, frame_batch
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
        if self.front_end is None:
            return self.source.num_mels
        return self.front_end.config.width(self.source.num_mels)

    def batch(
        self, chunk: FrameChunk, piece: Piece, width: int | None = None
    ) -> tuple[torch.Tensor, ClipBatch]:
        found = frame_batch(chunk, piece, pad_value=0.0, width=width)
        if self.front_end is None:
            return torch.from_numpy(found.frames_BTM), found
        lengths = found.lengths_B.tolist()
        own = [clip_TM[:length] for clip_TM, length in zip(found.frames_BTM, lengths, strict=True)]
        vectors_SN = self.front_end.vectors_of(own, [slice(None)] * len(own))
        shape = (*found.frames_BTM.shape[:2], vectors_SN.shape[1])
        vectors_BTN = np.zeros(shape, dtype=np.float32)
        ends = np.cumsum(lengths)[:-1]
        for vectors_TN, own_TN in zip(vectors_BTN, np.split(vectors_SN, ends), strict=True):
            vectors_TN[: len(own_TN)] = own_TN
        return torch.from_numpy(vectors_BTN), found
