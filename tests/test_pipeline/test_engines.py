"""Engines: each finds the same, and the fastest is taken."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt
import pytest

from configs.codebook import CodebookConfig
from configs.errors import InputError
from pipeline.audio import choose, engines, threads
from pipeline.audio.assign import Assigner, unit
from pipeline.audio.choose import BUILDS, choose_engine
from pipeline.audio.distinct import distinct
from pipeline.audio.engines import Found, Gemm
from pipeline.audio.threads import one_blas_thread
from pipeline.kmeans import ArrayRows, Trainer

CPU = tuple(BUILDS["cpu"].values())


def rows_of(num: int, width: int, seed: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(num, width)).astype(np.float32)


@pytest.mark.parametrize("build", CPU, ids=["gemm", "faiss"])
@pytest.mark.parametrize("num_rows", [1, 63, 3_000])
@pytest.mark.parametrize("k", [2, 50, 700, 5_000])
def test_an_engine_finds_the_best_and_the_second(
    build: engines.Build, k: int, num_rows: int
) -> None:
    rows_TE, weight_KE = rows_of(num_rows, 9, 0), rows_of(k, 9, 1)
    scores_TK = rows_TE.astype(np.float64) @ weight_KE.T.astype(np.float64)
    ranked_TK = np.sort(scores_TK, axis=1)[:, ::-1]
    found = build(weight_KE).search(rows_TE)
    assert (found.index_T == scores_TK.argmax(axis=1)).mean() > 0.999
    np.testing.assert_allclose(found.best_T, ranked_TK[:, 0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.second_T, ranked_TK[:, 1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("k", [2, 50, 500])
def test_every_engine_gives_the_same_tokens(frames: npt.NDArray, k: int, metric: str) -> None:
    rows = unit(frames) if metric == "cosine" else frames
    centroids_KD = rows[distinct(rows)[0][:: max(1, len(distinct(rows)[0]) // k)]][:k]
    by_gemm, by_faiss = (Assigner(centroids_KD, metric, build).tokens(frames) for build in CPU)
    assert by_gemm.tobytes() == by_faiss.tobytes()


def test_an_engine_that_is_off_by_rounding_gives_the_same_tokens(frames: npt.NDArray) -> None:
    """As a GPU may be: every score is moved by half of what the bound allows."""
    found_otherwise = []

    class Shaken(Gemm):
        def search(self, rows_TE: npt.NDArray) -> Found:
            norms_T = np.linalg.norm(rows_TE[:, :-1], axis=1)
            largest = np.linalg.norm(self._weight_EK[:-1], axis=0).max()
            bound_T = 40 * 2**-24 * norms_T * largest
            scores_TK = rows_TE @ self._weight_EK
            sign_TK = np.random.default_rng(0).choice([-1, 1], scores_TK.shape)
            ranked_TK = scores_TK + (sign_TK * bound_T[:, None]).astype(np.float32)
            order_TK = np.argsort(-ranked_TK, axis=1)[:, :2]
            best_T2 = np.take_along_axis(ranked_TK, order_TK, axis=1)
            found_otherwise.append((order_TK[:, 0] != scores_TK.argmax(axis=1)).any())
            return Found(order_TK[:, 0], best_T2[:, 0], best_T2[:, 1])

    centroids_KD = frames[distinct(frames)[0][::8]]
    shaken = Assigner(centroids_KD, "l2", Shaken).tokens(frames)
    assert shaken.tobytes() == Assigner(centroids_KD, "l2").tokens(frames).tobytes()
    assert any(found_otherwise)


def trained_by(build: engines.Build, frames: npt.NDArray, metric: str) -> list[bytes]:
    """Every step's centroids, and the errors."""
    config = CodebookConfig(k=64, front_end="none", metric=metric)
    rows, holdout = ArrayRows.of(frames), ArrayRows.of(frames[::7])
    trainer = Trainer(config, build)
    states = list(trainer.train(trainer.start(rows), rows, holdout))
    errors = np.array([*states[-1].train_errors, *states[-1].pass_errors])
    return [errors.tobytes(), *(state.centroids_KD.tobytes() for state in states)]


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_no_engine_decides_a_bit_of_a_codebook(frames: npt.NDArray, metric: str) -> None:
    """The probe's clock chooses the engine, and must not choose bytes with it."""
    by_gemm, by_faiss = (trained_by(build, frames, metric) for build in CPU)
    assert by_gemm == by_faiss


@pytest.fixture
def fresh_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    choose._probed.cache_clear()
    yield
    choose._probed.cache_clear()


def rated(monkeypatch: pytest.MonkeyPatch, device: str, **rates: float | Exception) -> None:
    """Engines of a device that are as fast as is said, or fail."""

    def rate(build: engines.Build, *_: int) -> float:
        found = build(np.zeros((1, 1), np.float32))
        if isinstance(found, Exception):
            raise found
        return found  # type: ignore[return-value]

    builds = {name: lambda _, value=value: value for name, value in rates.items()}
    monkeypatch.setattr(choose, "_rate", rate)
    monkeypatch.setitem(BUILDS, device, builds)


def test_the_probe_takes_the_fastest_and_says_how_fast_each_was(
    monkeypatch: pytest.MonkeyPatch, fresh_probe: None
) -> None:
    rated(monkeypatch, "cpu", gemm=2e6, faiss=3e6)
    choice = choose_engine(50, 8, "cpu")
    assert (choice.build, choice.name) == (BUILDS["cpu"]["faiss"], "faiss")
    assert str(choice) == "faiss (gemm 2, faiss 3 million frames/s; faiss sees no GPU)"


def test_on_gpus_faiss_and_triton_are_tried(
    monkeypatch: pytest.MonkeyPatch, fresh_probe: None
) -> None:
    monkeypatch.setattr(choose.faiss, "get_num_gpus", lambda: 2)
    rated(monkeypatch, "cuda", faiss=5e8, triton=9e8)
    choice = choose_engine(50, 8, "auto")
    assert (choice.name, choice.device) == ("triton", "cuda")
    assert str(choice) == "triton (faiss 500, triton 900 million frames/s; 2 GPU)"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ImportError("No module named 'torch'"), "ImportError: No module named 'torch'"),
        (
            AssertionError("Torch not compiled with CUDA\nmore"),
            "AssertionError: Torch not compiled",
        ),
    ],
)
def test_an_engine_that_does_not_work_is_left_out_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, fresh_probe: None, error: Exception, reason: str
) -> None:
    monkeypatch.setattr(choose.faiss, "get_num_gpus", lambda: 1)
    rated(monkeypatch, "cuda", faiss=5e8, triton=error)
    choice = choose_engine(50, 8, "cuda")
    assert choice.name == "faiss"
    assert f"not triton: {reason}" in str(choice)
    assert "more" not in str(choice)


def test_where_no_engine_works_the_reasons_are_given(
    monkeypatch: pytest.MonkeyPatch, fresh_probe: None
) -> None:
    rated(monkeypatch, "cpu", gemm=MemoryError("a"), faiss=RuntimeError("b"))
    with pytest.raises(InputError, match="MemoryError: a.*RuntimeError: b"):
        choose_engine(50, 8, "cpu")


def blas_threads() -> dict[str, int]:
    return {library.filepath: library.num_threads for library in threads._numpy_blas()}


def test_blas_has_one_thread_while_anybody_is_inside_and_faiss_all_of_them() -> None:
    """Two that overlap: the first to go must not give threads back, the last one must."""
    before, faiss_before = blas_threads(), faiss.omp_get_max_threads()
    both, one_is_out = threading.Barrier(2), threading.Event()
    seen = []

    def first() -> None:
        with one_blas_thread:
            both.wait(10)
        one_is_out.set()

    other = threading.Thread(target=first)
    other.start()
    with one_blas_thread:
        both.wait(10)
        assert one_is_out.wait(10)
        seen.append(blas_threads())
        assert faiss.omp_get_max_threads() == faiss_before
        with one_blas_thread:
            pass
        seen.append(blas_threads())
    other.join()
    assert [set(counts.values()) for counts in seen] == [{1}, {1}]
    assert blas_threads() == before


FUSED = """
import numpy as np
from pipeline.audio.assign import Assigner
from pipeline.audio.assign_triton import Fused
from pipeline.audio.engines import Gemm
random = np.random.default_rng(0)
for rows, k, width in ((1, 2, 3), (63, 64, 15), (130, 65, 32), (200, 150, 64)):
    vectors, centroids = random.normal(size=(rows, width)), random.normal(size=(k, width))
    vectors, centroids = vectors.astype(np.float32), centroids.astype(np.float32)
    centroids[k // 2] = centroids[0]
    build = lambda weights: Fused(weights, "cpu")
    for metric in ("l2", "cosine"):
        ours, theirs = (Assigner(centroids, metric, b).tokens(vectors) for b in (build, Gemm))
        assert ours.tobytes() == theirs.tobytes(), (rows, k, width, metric)
    weights = centroids @ np.eye(width, dtype=np.float32)
    one, other = build(weights).search(vectors), Gemm(weights).search(vectors)
    assert np.allclose(one.best_T, other.best_T, atol=1e-4)
    assert np.allclose(one.second_T, other.second_T, atol=1e-4)
print("equal")
"""


def test_the_kernel_for_gpus_interpreted_gives_the_same_tokens() -> None:
    """Triton runs it here in Python: what it computes, if not how fast."""
    pytest.importorskip("triton")
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", FUSED],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.strip() == "equal", done.stderr


has_gpu = pytest.mark.skipif(faiss.get_num_gpus() == 0, reason="faiss sees no GPU here")


@pytest.mark.gpu
@has_gpu
@pytest.mark.parametrize("build", BUILDS["cuda"].values(), ids=BUILDS["cuda"])
@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("k", [50, 500])
def test_a_gpu_gives_the_tokens_of_a_cpu(
    frames: npt.NDArray, build: engines.Build, k: int, metric: str
) -> None:
    rows = unit(frames) if metric == "cosine" else frames
    centroids_KD = rows[distinct(rows)[0]][:: len(rows) // k][:k]
    on_gpu = Assigner(centroids_KD, metric, build).tokens(frames)
    assert on_gpu.tobytes() == Assigner(centroids_KD, metric).tokens(frames).tobytes()


@pytest.mark.gpu
@has_gpu
@pytest.mark.parametrize("build", BUILDS["cuda"].values(), ids=BUILDS["cuda"])
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_a_gpu_trains_the_codebook_of_a_cpu(
    frames: npt.NDArray, build: engines.Build, metric: str
) -> None:
    assert trained_by(build, frames, metric) == trained_by(Gemm, frames, metric)


def test_the_probe_really_measures(fresh_probe: None) -> None:
    choice = choose_engine(64, 16, "cpu")
    assert set(choice.rows_per_s) == {"gemm", "faiss"}
    assert choice.rows_per_s[choice.name] == max(choice.rows_per_s.values()) > 1_000


def test_equal_rows_are_found_whatever_their_bytes() -> None:
    rows = np.random.default_rng(0).integers(0, 3, (2_000, 3)).astype(np.float16)
    first, same = distinct(rows)
    assert (rows[first][same] == rows).all()
    assert len(first) == len(np.unique(rows, axis=0))
    assert (np.diff(first) > 0).all()
    firsts = [next(i for i, row in enumerate(rows) if (row == rows[at]).all()) for at in first]
    assert firsts == first.tolist()


def test_rows_that_share_a_hash_are_still_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    class Zeros:
        def integers(self, *_: object, **__: object) -> npt.NDArray[np.uint64]:
            return np.full(1, 2**63, dtype=np.uint64)  # times two: every hash is the first word's

    monkeypatch.setattr(np.random, "Generator", lambda _: Zeros())
    rows = np.array([[0, 2**63], [0, 0], [0, 2**63]], dtype=np.uint64).reshape(3, 2)[:, 1:]
    first, same = distinct(rows)
    assert (first.tolist(), same.tolist()) == ([0, 1], [0, 1, 0])
