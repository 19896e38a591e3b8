"""From vectors to tokens: the index of the nearest centroid, the same on every CPU and GPU.

faiss searches in float32, where kernels round differently; rows whose best candidates lie closer
together than the rounding can move them are decided again in float64, in a fixed order, lowest
index on a tie. That reference is what a token means, whichever engine found it.
"""

from __future__ import annotations

import faiss
import numpy as np
import numpy.typing as npt

from configs.errors import InputError
from pipeline.audio.front_end import VectorsTD

UNIT_ROUNDOFF = 2.0**-24  # of float32
NUM_CANDIDATES = 4
ROWS_AT_A_TIME = 65_536
RESCORE_CELLS = 4_000_000  # float64 scores held at once while re-scoring

CentroidsKD = npt.NDArray[np.float32]
TokensT = npt.NDArray[np.uint16]


class Assigner:
    """Nearest centroids under `l2`, or under `cosine` (centroids of unit length).

    Both are an L2 search over centred vectors: on unit vectors it orders like cosine, and
    centring shrinks the norms that rounding errors grow with.
    """

    def __init__(self, centroids_KD: CentroidsKD, metric: str, device: str = "cpu") -> None:
        self.centroids_KD = np.ascontiguousarray(centroids_KD, dtype=np.float32)
        self.metric = metric
        self._mean_D = self.centroids_KD.mean(axis=0, dtype=np.float64).astype(np.float32)
        centred_KD = self.centroids_KD - self._mean_D
        self._largest_norm = float(np.linalg.norm(centred_KD, axis=1).max())
        squares_K = (self.centroids_KD.astype(np.float64) ** 2).sum(axis=1)
        self._length_error = float(np.abs(squares_K - 1).max())
        self._index = _index(centred_KD, device)

    def nearest(
        self, vectors_TD: VectorsTD
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Index and squared distance of the nearest centroid in float32, undecided calls left.

        Under `cosine` vectors are scaled to unit length first, and the distance is 2 - 2 cos.
        """
        distances_T1, indices_T1 = self._index.search(self._prepared(vectors_TD), 1)
        return indices_T1[:, 0], distances_T1[:, 0]

    def tokens(self, vectors_TD: VectorsTD) -> TokensT:
        """Tokens [T] uint16 of vectors [T, D]: exact, lowest index on a tie.

        Raises ValueError for NaN or infinite values.
        """
        if not np.isfinite(vectors_TD).all():
            raise ValueError("vectors to tokenise hold NaN or infinite values")
        parts = [
            self._exact(vectors_TD[start : start + ROWS_AT_A_TIME])
            for start in range(0, len(vectors_TD), ROWS_AT_A_TIME)
        ]
        return np.concatenate(parts).astype(np.uint16) if parts else np.empty(0, np.uint16)

    def _exact(self, vectors_TD: VectorsTD) -> npt.NDArray[np.int64]:
        prepared_TD = self._prepared(vectors_TD)
        num_candidates = min(NUM_CANDIDATES, len(self.centroids_KD))
        distances_TC, found_TC = self._index.search(prepared_TD, num_candidates)
        tokens_T: npt.NDArray[np.int64] = found_TC[:, 0].copy()
        reach_T = distances_TC[:, 0] + 2 * self._rounding_bound(prepared_TD)
        close_T = distances_TC[:, 1] <= reach_T
        all_close_T = distances_TC[:, -1] <= reach_T
        few = np.flatnonzero(close_T & ~all_close_T)
        many = np.flatnonzero(all_close_T)
        tokens_T[few] = self._decide(vectors_TD[few], np.sort(found_TC[few], axis=1))
        for rows in np.array_split(many, 1 + len(many) * len(self.centroids_KD) // RESCORE_CELLS):
            every_TK = np.broadcast_to(np.arange(len(self.centroids_KD)), (len(rows), self.k))
            tokens_T[rows] = self._decide(vectors_TD[rows], every_TK)
        return tokens_T

    @property
    def k(self) -> int:
        return len(self.centroids_KD)

    def _prepared(self, vectors_TD: VectorsTD) -> VectorsTD:
        vectors_TD = unit(vectors_TD) if self.metric == "cosine" else vectors_TD
        return np.ascontiguousarray(vectors_TD - self._mean_D, dtype=np.float32)

    def _rounding_bound(self, prepared_TD: VectorsTD) -> npt.NDArray[np.float32]:
        """How far a float32 squared distance can be from the true one.

        The standard bound of an inner product of length D is D u |x||c| (Higham, Accuracy and
        Stability of Numerical Algorithms, section 3.1); a few more roundings form, centre and
        combine the terms.
        """
        norms_T = np.linalg.norm(prepared_TD, axis=1) + self._largest_norm
        bound_T = (prepared_TD.shape[1] + 16) * UNIT_ROUNDOFF * norms_T**2
        if self.metric == "cosine":  # vectors and centroids are of unit length but for rounding
            bound_T += self._length_error + 16 * UNIT_ROUNDOFF * norms_T
        return np.asarray(bound_T, dtype=np.float32)

    def _decide(
        self, vectors_TD: VectorsTD, candidates_TC: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """The best of some candidates (in rising order) by float64 scores summed over d = 0, 1,
        2 ...; cosine needs no division by the vector's length to find its best."""
        cost_TC = np.zeros(candidates_TC.shape, dtype=np.float64)
        for d in range(self.centroids_KD.shape[1]):
            x_T1 = vectors_TD[:, d, None].astype(np.float64)
            c_TC = self.centroids_KD[candidates_TC, d].astype(np.float64)
            cost_TC += -x_T1 * c_TC if self.metric == "cosine" else (x_T1 - c_TC) ** 2
        best_T1 = cost_TC.argmin(axis=1)[:, None]
        return np.take_along_axis(candidates_TC, best_T1, axis=1)[:, 0]


def unit(vectors_TD: VectorsTD) -> VectorsTD:
    """Vectors scaled to unit length; a zero vector stays zero."""
    norms_T1 = np.linalg.norm(vectors_TD, axis=1, keepdims=True)
    return np.asarray(vectors_TD / np.maximum(norms_T1, np.finfo(np.float32).tiny), np.float32)


def choose_device(asked: str) -> str:
    """`cuda` or `cpu` for faiss; `auto` takes a GPU where faiss sees one.

    Raises InputError where a GPU is asked for and faiss sees none.
    """
    num_gpus = faiss.get_num_gpus()
    if asked == "cuda" and not num_gpus:
        raise InputError("codebook.device=cuda, but faiss sees no GPU here: use auto or cpu")
    if asked == "auto":
        return "cuda" if num_gpus else "cpu"
    return asked


def _index(centroids_KD: CentroidsKD, device: str) -> faiss.Index:
    index = faiss.IndexFlatL2(centroids_KD.shape[1])
    index.add(centroids_KD)
    if device == "cuda":
        return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    return index
