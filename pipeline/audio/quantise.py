"""A codebook at work: stored frames in, tokens out, and back.

The stages, training and prediction all go through here. A clip's tokens depend on its own frames
and the codebook only.

Legend: T frames of a clip, M numbers in a frame, D in a vector, Q codebooks, K centroids in each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.audio.assign import Assigner, TokensT, unit
from pipeline.audio.engines import Build, Gemm
from pipeline.audio.front_end import FramesTM, FrontEnd
from pipeline.audio.half import to_float32
from pipeline.audio.steps import Arrays, VectorsTD

FEWEST_ROWS = 16_384

TokensTQ = npt.NDArray[np.uint16]


class Vocabulary(Protocol):
    """What is needed of a codebook (`shards.codebook.Codebook`)."""

    @property
    def centroids_QKD(self) -> npt.NDArray[np.float32]: ...  # noqa: N802 - its shape
    @property
    def metric(self) -> str: ...
    @property
    def combine(self) -> str: ...
    @property
    def front_end(self) -> Mapping[str, Any]: ...
    @property
    def front_end_tensors(self) -> Arrays: ...
    @property
    def token_frames_QVM(self) -> npt.NDArray[np.float32]: ...  # noqa: N802


class Quantiser:
    """Front end, and an assigner for each codebook."""

    def __init__(self, vocabulary: Vocabulary, build: Build = Gemm) -> None:
        self.front_end = FrontEnd.restored(vocabulary.front_end, vocabulary.front_end_tensors)
        self._centroids_QKD = vocabulary.centroids_QKD
        self._metric = vocabulary.metric
        self._is_residual = vocabulary.combine == "residual"
        self._token_frames_QVM = vocabulary.token_frames_QVM
        self.assigners = [
            Assigner(centroids_KD, vocabulary.metric, build)
            for centroids_KD in vocabulary.centroids_QKD
        ]

    @property
    def k(self) -> int:
        """Centroids in each codebook, and the token of silence."""
        return int(self._centroids_QKD.shape[1])

    @property
    def rows_at_a_time(self) -> int:
        """Frames, and one clip's, that are turned into tokens at once: close calls cost least when
        many are decided together."""
        return max(FEWEST_ROWS, self.assigners[0].rows_at_a_time)

    def tokens(self, frames_TM: FramesTM) -> TokensTQ:
        """The tokens [T, Q] uint16 of one clip's stored frames [T, M]."""
        return self.tokens_of([frames_TM])[0]

    def tokens_of(self, clips: Sequence[FramesTM]) -> list[TokensTQ]:
        """The tokens of many clips: quicker together, and the same as one by one."""
        tokens: list[TokensTQ] = []
        waiting: list[FramesTM] = []
        for frames_TM in clips:
            waiting.append(frames_TM)
            if sum(map(len, waiting)) >= self.rows_at_a_time:
                tokens += self._together(waiting)
                waiting = []
        return tokens + self._together(waiting)

    def quantise(self, vectors_TD: VectorsTD) -> TokensTQ:
        """The tokens of vectors, none of them silent."""
        columns: list[TokensT] = []
        left_TD = vectors_TD
        for q, assigner in enumerate(self.assigners):
            columns.append(
                assigner.tokens(left_TD if self._is_residual else self.part(vectors_TD, q))
            )
            if self._is_residual:
                left_TD = left_TD - self._centroids_QKD[q, columns[-1]]
        return np.stack(columns, axis=1)

    def part(self, vectors_TD: VectorsTD, q: int) -> VectorsTD:
        """What codebook q is compared with first: its numbers of a product, or all of them."""
        width = self._centroids_QKD.shape[2]
        return (
            vectors_TD
            if self._is_residual
            else np.ascontiguousarray(vectors_TD[:, q * width : (q + 1) * width])
        )

    def compared(self, vectors_TD: VectorsTD) -> VectorsTD:
        """Vectors as they are compared: under `cosine` every codebook's part has unit length."""
        if self._metric == "l2":
            return vectors_TD
        parts = [unit(self.part(vectors_TD, q)) for q in range(len(self.assigners))]
        return np.concatenate(parts, axis=1)

    def vectors(self, tokens_TQ: TokensTQ) -> VectorsTD:
        """The vectors [T, D] that tokens stand for, none of them silence."""
        parts_QTD = [
            centroids_KD[tokens_T]
            for centroids_KD, tokens_T in zip(self._centroids_QKD, tokens_TQ.T, strict=True)
        ]
        return np.sum(parts_QTD, axis=0) if self._is_residual else np.concatenate(parts_QTD, axis=1)

    def frames(self, tokens_TQ: TokensTQ) -> npt.NDArray[np.float32]:
        """The frames [T, M], in dB as stored, that tokens stand for."""
        frames_QTM = [
            token_frames_VM[tokens_T]
            for token_frames_VM, tokens_T in zip(self._token_frames_QVM, tokens_TQ.T, strict=True)
        ]
        return np.asarray(np.sum(frames_QTM, axis=0), dtype=np.float32)

    def _together(self, clips: Sequence[FramesTM]) -> list[TokensTQ]:
        if not clips:
            return []
        frames = [to_float32(frames_TM) for frames_TM in clips]
        if self.front_end.config.mask_below_db is None:
            every = [slice(None)] * len(frames)
            tokens_TQ = self.quantise(self.front_end.vectors_of(frames, every))
        else:
            audible = [~self.front_end.silent(frames_TM) for frames_TM in frames]
            audible_T = np.concatenate(audible)
            tokens_TQ = np.full((len(audible_T), len(self.assigners)), self.k, np.uint16)
            tokens_TQ[audible_T] = self.quantise(self.front_end.vectors_of(frames, audible))
        return np.split(tokens_TQ, np.cumsum([len(frames_TM) for frames_TM in clips])[:-1])
