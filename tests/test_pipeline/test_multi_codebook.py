"""Several codebooks, product and residual; and a training that goes on after any step."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load, save
from sklearn.cluster import KMeans

from configs.codebook import CodebookConfig
from configs.errors import InputError
from pipeline.audio.assign import Assigner
from pipeline.audio.engines import Gemm
from pipeline.kmeans import ArrayRows
from pipeline.multi_codebook import Training, train_codebooks
from tests.test_pipeline.test_kmeans import (
    NOTHING,
    config_of,
    error_of,
    small_batches,
    smooth_vectors,
)

# --- resume ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "over",
    [
        {},
        {"metric": "cosine"},
        {"codebooks": 4},
        {"codebooks": 3, "combine": "residual"},
    ],
    ids=str,
)
def test_a_resume_after_any_step_gives_equal_bytes(
    over: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    small_batches(monkeypatch, 256)
    rows = ArrayRows.of(smooth_vectors(3_000))
    config = config_of(20, passes=2, **over)
    undisturbed = list(train_codebooks(Training(), config, rows, NOTHING, Gemm))
    assert len(undisturbed[-1].done) == config.codebooks
    for stopped in undisturbed[:-1]:
        stored = Training.resumed(load(save(stopped.tensors())))
        *_, last = train_codebooks(stored, config, rows, NOTHING, Gemm)
        assert save(last.tensors()) == save(undisturbed[-1].tensors())


# --- several codebooks -------------------------------------------------------------------------


def all_done(vectors_ND: npt.NDArray, config: CodebookConfig) -> npt.NDArray:
    *_, last = train_codebooks(Training(), config, ArrayRows.of(vectors_ND), NOTHING, Gemm)
    return last.centroids_QKD


def test_each_codebook_of_a_product_learns_its_part() -> None:
    vectors_ND = smooth_vectors(3_000)
    centroids_QKD = all_done(vectors_ND, config_of(16, codebooks=4, passes=20))
    assert centroids_QKD.shape == (4, 16, 16)
    ours, theirs = 0.0, 0.0
    for q in range(4):
        part_ND = np.ascontiguousarray(vectors_ND[:, 16 * q : 16 * q + 16])
        ours += error_of(centroids_QKD[q], part_ND)
        theirs += KMeans(16, n_init=1, random_state=0).fit(part_ND).inertia_ / len(part_ND)
    assert ours < 1.02 * theirs


def test_each_codebook_of_a_residual_learns_what_is_left_over() -> None:
    vectors_ND = smooth_vectors(3_000)
    centroids_QKD = all_done(vectors_ND, config_of(16, codebooks=3, combine="residual"))
    assert centroids_QKD.shape == (3, 16, 64)
    left_ND, errors = vectors_ND, []
    for centroids_KD in centroids_QKD:
        left_ND = left_ND - centroids_KD[Assigner(centroids_KD, "l2").tokens(left_ND)]
        errors.append(float((left_ND.astype(np.float64) ** 2).mean()))
    assert errors == sorted(errors, reverse=True)
    one = all_done(vectors_ND, config_of(48))[0]
    assert errors[-1] < error_of(one, vectors_ND) / 64, "48 centroids used together beat 48 in one"


def test_a_later_codebook_that_has_too_little_left_says_which() -> None:
    """Of 5 distinct vectors, 4 centroids leave 2: nothing, and a difference."""
    config = config_of(4, codebooks=3, combine="residual")
    rows = ArrayRows.of(np.repeat(np.eye(5, dtype=np.float32), 100, axis=0))
    with pytest.raises(InputError, match=r"codebook 2 of 3 has \d distinct .* or codebooks"):
        list(train_codebooks(Training(), config, rows, NOTHING, Gemm))
