"""What tokens sound like: for each, the frame that it stands for.

With one codebook that is the mean of the frames that have the token. With several, frames are
sums, one term a codebook, fitted in turns (backfitting; Friedman and Stuetzle, 1981). It needs no
inverse of the front end, and is the frame with the least squared error for what a token knows.

Legend: N drawn frames, M numbers in a frame, Q codebooks, V tokens in each, silence included.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse

from pipeline.audio.half import to_float32
from pipeline.audio.quantise import TokensTQ

TURNS = 4

TokenFramesQVM = npt.NDArray[np.float32]


def fit_token_frames(
    tokens_NQ: TokensTQ,
    frames_NM: npt.NDArray[np.floating],
    weights_N: npt.NDArray[np.floating],
    vocabulary: int,
) -> TokenFramesQVM:
    """The frames [Q, V, M] that tokens stand for; a token that nothing has adds nothing to the
    mean frame, which the first codebook carries."""
    num_codebooks = tokens_NQ.shape[1]
    frames_NM = to_float32(frames_NM)
    mean_M = np.average(frames_NM, axis=0, weights=weights_N)
    token_frames_QVM = np.zeros((num_codebooks, vocabulary, frames_NM.shape[1]))
    left_NM = frames_NM - mean_M
    for _ in range(TURNS if num_codebooks > 1 else 1):
        for q, tokens_N in enumerate(tokens_NQ.T):
            left_NM += token_frames_QVM[q, tokens_N]
            token_frames_QVM[q] = _means(tokens_N, left_NM, weights_N, vocabulary)
            left_NM -= token_frames_QVM[q, tokens_N]
    token_frames_QVM[0] += mean_M
    return token_frames_QVM.astype(np.float32)


def _means(
    tokens_N: npt.NDArray[np.uint16],
    values_NM: npt.NDArray[np.floating],
    weights_N: npt.NDArray[np.floating],
    vocabulary: int,
) -> npt.NDArray[np.float64]:
    """Mean values [V, M] of the frames of each token, 0 where there are none."""
    shape = (vocabulary, len(tokens_N))
    each_VN = scipy.sparse.csr_array((weights_N, (tokens_N, np.arange(len(tokens_N)))), shape=shape)
    counts_V1 = np.bincount(tokens_N, weights=weights_N, minlength=vocabulary)[:, None]
    sums_VM = (each_VN @ values_NM).astype(np.float64)
    return np.asarray(sums_VM / np.where(counts_V1 > 0, counts_V1, 1))
