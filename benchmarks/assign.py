"""`make bench NAME=assign`: frames a second from vectors to exact tokens, on one thread.

All sides take the same real frames and the same codebook, in turn, for several rounds: ours (exact
tokens, close calls decided again), faiss (`search` of the flat index of the metric, k=1), and a
plain loop of numpy's product and argmax, without bias or close calls. Their rates are also given
as shares of the largest rate of a matrix product, 2,048 x 2,048 float32. Both metrics are run; the
keys are those of the slower. What differs is counted against all float64 distances of a sample.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

ROOT = Path(__file__).resolve().parent.parent
SIZES = {50: 300_000, 500: 131_072, 5000: 32_768}  # frames
CHECKED = 4_096
PEAK_SIZE = 2_048
METRICS = ("l2", "cosine")

Sides = dict[str, Callable[[], Any]]


def main() -> None:
    args = _arguments()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # before numpy reads them
        os.environ[name] = "1"
    print(f"OPENBLAS_CORETYPE={os.environ.get('OPENBLAS_CORETYPE', '(unset)')}, one thread")
    shares: dict[str, list[float]] = {}
    differing = 0
    for k in args.k:
        for metric in METRICS:
            vectors_ND, centroids_KD = _made(args.directory, k, metric)
            differing += _differing(vectors_ND, centroids_KD, metric)
            rates = _rates(_sides(vectors_ND, centroids_KD, metric), args.rounds)
            peak = rates.pop("peak")
            flops = 2 * k * vectors_ND.shape[1]
            for name, rate in rates.items():
                per_s = rate * len(vectors_ND)
                share = per_s * flops / peak
                print(f"k={k:<6}{metric:<8}{name:<16}{per_s / 1e6:8.3f} M frames/s{share:8.1%}")
                shares.setdefault(f"{name} {k}", []).append(share)
            shares.setdefault(f"ratio {k}", []).append(rates["ours"] / rates["faiss"])
    keys = {
        **{f"gemm_share_k{k}": round(min(shares[f"ours {k}"]), 3) for k in args.k},
        **{f"vs_faiss_k{k}": round(min(shares[f"ratio {k}"]), 2) for k in args.k},
        "tokens_differing": differing,
    }
    print(json.dumps({"bench": "assign", **keys, "rounds": args.rounds}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--k", type=int, nargs="+", default=list(SIZES), choices=SIZES)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--directory", type=Path, default=ROOT / "runs/bench/kmeans")
    return parser.parse_args()


def _made(directory: Path, k: int, metric: str) -> tuple[Floats, Floats]:
    """Training frames, and a codebook of a few steps on the first of them."""
    from benchmarks.esc_frames import esc_frames
    from configs.codebook import CodebookConfig
    from pipeline.audio.assign import unit
    from pipeline.kmeans import ArrayRows, Trainer

    vectors_ND = esc_frames(directory).train_NM[: SIZES[k]]
    vectors_ND = unit(vectors_ND) if metric == "cosine" else vectors_ND
    rows = ArrayRows.of(vectors_ND[: 40 * k])
    trainer = Trainer(CodebookConfig.model_validate({"k": k, "metric": metric, "passes": 2}))
    *_, state = trainer.train(trainer.start(rows), rows, ArrayRows.of(vectors_ND[:0]))
    return vectors_ND, state.centroids_KD


def _sides(vectors_ND: Floats, centroids_KD: Floats, metric: str) -> Sides:
    import faiss
    import numpy as np

    from pipeline.audio.assign import Assigner

    faiss.omp_set_num_threads(1)
    assigner = Assigner(centroids_KD, metric)
    kind = faiss.IndexFlatIP if metric == "cosine" else faiss.IndexFlatL2
    index = kind(centroids_KD.shape[1])
    index.add(centroids_KD)
    square = np.random.default_rng(0).random((PEAK_SIZE, PEAK_SIZE), dtype=np.float32)
    product = np.empty_like(square)
    return {
        "ours": lambda: assigner.tokens(vectors_ND),
        "faiss": lambda: index.search(vectors_ND, 1),
        "numpy": lambda: _plain(vectors_ND, centroids_KD),
        "peak": lambda: np.matmul(square, square, out=product),
    }


def _plain(vectors_ND: Floats, centroids_KD: Floats, rows: int = 256) -> Any:
    import numpy as np

    tokens_N = np.empty(len(vectors_ND), dtype=np.int64)
    centroids_DK = np.ascontiguousarray(centroids_KD.T)
    for at in range(0, len(vectors_ND), rows):
        tokens_N[at : at + rows] = (vectors_ND[at : at + rows] @ centroids_DK).argmax(axis=1)
    return tokens_N


def _rates(sides: Sides, rounds: int) -> dict[str, float]:
    """Calls a second of each side, by CPU time: the median of rounds in which all take turns; of
    the product, operations a second."""
    spent: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, side in sides.items():
            began_s = time.process_time()
            side()
            if number:  # the first round warms up
                spent[name].append(time.process_time() - began_s)
    rates = {name: 1 / statistics.median(seconds) for name, seconds in spent.items()}
    return {**rates, "peak": rates["peak"] * 2 * PEAK_SIZE**3}


def _differing(vectors_ND: Floats, centroids_KD: Floats, metric: str) -> int:
    """Tokens of a sample that are not the first of the nearest by float64."""
    import numpy as np

    from pipeline.audio.assign import Assigner

    some_ND = vectors_ND[:CHECKED].astype(np.float64)
    tokens_N = Assigner(centroids_KD, metric).tokens(vectors_ND)[:CHECKED]
    best_N = np.empty(len(some_ND), dtype=np.int64)
    for number, vector_D in enumerate(some_ND):
        exact_KD = centroids_KD.astype(np.float64)
        if metric == "cosine":
            best_N[number] = (exact_KD @ vector_D).argmax()
        else:
            best_N[number] = ((exact_KD - vector_D) ** 2).sum(axis=1).argmin()
    return int((tokens_N != best_N).sum())


if __name__ == "__main__":
    main()
