"""Engines: each finds the same, and the fastest is taken."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.audio import engines
from pipeline.audio.assign import Assigner, unit
from pipeline.audio.distinct import distinct
from pipeline.audio.engines import BUILDS, Faiss, Found, Gemm, choose_engine

CPU = list(BUILDS["cpu"].values())


def rows_of(num: int, width: int, seed: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(num, width)).astype(np.float32)


@pytest.mark.parametrize("build", CPU, ids=list(BUILDS["cpu"]))
@pytest.mark.parametrize("num_rows", [1, 63, 3_000])
@pytest.mark.parametrize("k", [2, 50, 700, 5_000])
def test_an_engine_finds_the_best_and_the_second(
    build: engines.Build, k: int, num_rows: int
) -> None:
    rows_TE, weight_KE = rows_of(num_rows, 9, 0), rows_of(k, 9, 1)
    scores_TK = rows_TE.astype(np.float64) @ weight_KE.T.astype(np.float64)
    ranked_TK = np.sort(scores_TK, axis=1)[:, ::-1]
    found = build(weight_KE).search(rows_TE, want_second=True)
    assert (found.index_T == scores_TK.argmax(axis=1)).mean() > 0.999
    np.testing.assert_allclose(found.best_T, ranked_TK[:, 0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.second_T, ranked_TK[:, 1], rtol=1e-4, atol=1e-4)
    only = build(weight_KE).search(rows_TE, want_second=False)
    assert only.index_T.tolist() == found.index_T.tolist()


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("k", [2, 50, 500])
def test_every_engine_gives_the_same_tokens(frames: npt.NDArray, k: int, metric: str) -> None:
    rows = unit(frames) if metric == "cosine" else frames
    centroids_KD = rows[distinct(rows)[0][:: max(1, len(distinct(rows)[0]) // k)]][:k]
    gemm, faiss = (Assigner(centroids_KD, metric, build).tokens(frames) for build in CPU)
    assert gemm.tobytes() == faiss.tobytes()


def test_an_engine_that_is_off_by_rounding_gives_the_same_tokens(frames: npt.NDArray) -> None:
    """As a GPU may be: every score is moved by half of what the bound allows."""

    class Shaken(Gemm):
        def search(self, rows_TE: npt.NDArray, want_second: bool) -> Found:
            norms_T = np.linalg.norm(rows_TE[:, :-1], axis=1)
            largest = np.linalg.norm(self._weight_EK[:-1], axis=0).max()
            bound_T = 40 * 2**-24 * norms_T * largest
            scores_TK = rows_TE @ self._weight_EK
            sign_TK = np.random.default_rng(0).choice([-1, 1], scores_TK.shape)
            ranked_TK = scores_TK + (sign_TK * bound_T[:, None]).astype(np.float32)
            order_TK = np.argsort(-ranked_TK, axis=1)[:, :2]
            best_T2 = np.take_along_axis(ranked_TK, order_TK, axis=1)
            return Found(order_TK[:, 0], best_T2[:, 0], best_T2[:, 1])

    centroids_KD = frames[distinct(frames)[0][::8]]
    shaken = Assigner(centroids_KD, "l2", Shaken).tokens(frames)
    assert shaken.tobytes() == Assigner(centroids_KD, "l2").tokens(frames).tobytes()


@pytest.fixture
def fresh_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    engines._probed.cache_clear()
    yield
    engines._probed.cache_clear()


def test_the_probe_takes_the_fastest_and_says_how_fast_each_was(
    monkeypatch: pytest.MonkeyPatch, fresh_probe: None
) -> None:
    monkeypatch.setattr(
        engines, "_rate", lambda engine, _: {"gemm": 2e6, "faiss": 3e6}[engine.name]
    )
    choice = choose_engine(50, 8, "cpu")
    assert (choice.build, choice.name) == (Faiss, "faiss")
    assert str(choice) == "faiss (gemm 2, faiss 3 million frames/s)"


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
