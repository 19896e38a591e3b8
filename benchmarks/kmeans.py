"""`make bench NAME=kmeans`: CPU time until a codebook is as good as 50 Lloyd iterations make it.

The reference is faiss.Kmeans, 50 iterations over all training frames, cosine; as good is within 1 %
of its error on training frames and on those of held-out clips. Our trainer is looked at after
every step, off the clock. The peer is the cheapest run of faiss.Kmeans (5, 10, 20 or 50
iterations, over its own sample of 256 frames a centroid or over all) that gets there. One thread
each; the kernels of both BLAS are set alike (OPENBLAS_CORETYPE); a new process a side and seed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FRAMES = {500: None, 5000: 155_000}  # that train, of all; None: all of them
JUDGED = 40_000  # training frames
CLOSE = 1.01
ITERATIONS = (5, 10, 20, 50)


def main() -> None:
    args = _arguments()
    if args.measure:
        side, k, seed = args.measure.split(",")
        print(json.dumps(SIDES[side](args.directory, int(k), int(seed))))
        return
    print(f"OPENBLAS_CORETYPE={os.environ.get('OPENBLAS_CORETYPE', '(unset)')}, one thread")
    ratios: dict[str, float] = {}
    for k in args.k:
        found = [_round(args.directory, k, seed) for seed in range(1, args.seeds + 1)]
        ratios[f"vs_faiss_k{k}"] = round(statistics.median(found), 2)
        spread = f"{min(found):.2f} to {max(found):.2f}"
        print(
            f"k={k}: {ratios[f'vs_faiss_k{k}']:.2f} times as fast as faiss ({spread})", flush=True
        )
    print(json.dumps({"bench": "kmeans", **ratios, "seeds": args.seeds}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--k", type=int, nargs="+", default=[500, 5000])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--directory", type=Path, default=ROOT / "runs/bench/kmeans")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    return parser.parse_args()


def _round(directory: Path, k: int, seed: int) -> float:
    """How many times as long faiss takes; prints what was measured."""
    theirs = _in_a_new_process(directory, "faiss", k, seed)
    ours = _in_a_new_process(directory, "ours", k, seed)
    goal = theirs[-1]
    close = [run for run in theirs if _is_as_good(run, goal)]
    cheapest = min(close, key=lambda run: float(run["cpu_s"]))
    first = next((step for step in ours if _is_as_good(step, goal)), None)
    for run in (*theirs, first or ours[-1], ours[-1]):
        train, holdout = run["train"] / goal["train"], run["holdout"] / goal["holdout"]
        mark = " <" if run is cheapest or run is first else ""
        print(
            f"  k={k} seed {seed} {run['name']:<28}{run['cpu_s']:8.2f} s  train {train:.3f}  "
            f"held-out {holdout:.3f}{mark}"
        )
    return float(cheapest["cpu_s"] / first["cpu_s"]) if first else 0.0


def _is_as_good(run: dict[str, Any], goal: dict[str, Any]) -> bool:
    return all(run[part] <= CLOSE * goal[part] for part in ("train", "holdout"))


def _in_a_new_process(directory: Path, side: str, k: int, seed: int) -> list[dict[str, Any]]:
    words = [sys.executable, "-m", "benchmarks.kmeans", "--measure", f"{side},{k},{seed}"]
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [*words, "--directory", str(directory)],
        cwd=ROOT,
        env={**os.environ, **one_thread},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


class _Judge:
    """The frames of one k, of unit length, and the error that a codebook leaves on them."""

    def __init__(self, directory: Path, k: int) -> None:
        import numpy as np

        from benchmarks.esc_frames import esc_frames
        from pipeline.audio.assign import unit

        frames = esc_frames(directory)
        self.train_NM = unit(frames.train_NM[: FRAMES.get(k)])
        self.holdout_NM = unit(frames.holdout_NM)
        chosen = np.random.default_rng(99).choice(len(self.train_NM), JUDGED, replace=False)
        self._judged_NM = self.train_NM[chosen]

    def judge(self, name: str, cpu_s: float, centroids_KM: Any) -> dict[str, Any]:
        from pipeline.audio.assign import Assigner, unit

        assigner = Assigner(unit(centroids_KM), "cosine")
        parts = {"train": self._judged_NM, "holdout": self.holdout_NM}
        errors = {part: assigner.nearest(rows)[1].mean() / 2 for part, rows in parts.items()}
        return {"name": name, "cpu_s": cpu_s, **{part: float(e) for part, e in errors.items()}}


def _faiss(directory: Path, k: int, seed: int) -> list[dict[str, Any]]:
    """Every run; the last is the reference."""
    import faiss

    judge = _Judge(directory, k)
    found = []
    samples = [256] if 256 * k < len(judge.train_NM) else []
    for most in (*samples, 10**9):
        for iterations in ITERATIONS:
            kmeans = faiss.Kmeans(
                judge.train_NM.shape[1],
                k,
                niter=iterations,
                spherical=True,
                seed=seed,
                max_points_per_centroid=most,
            )
            began_s = time.process_time()
            kmeans.train(judge.train_NM)
            name = f"faiss {iterations} x {'all' if most == 10**9 else 'its sample'}"
            found.append(judge.judge(name, time.process_time() - began_s, kmeans.centroids))
    return found


def _ours(directory: Path, k: int, seed: int) -> list[dict[str, Any]]:
    """After every step, equal frames merged on the clock; some held-out frames say when to end."""
    from configs.codebook import CodebookConfig
    from pipeline.kmeans import ArrayRows, Trainer

    judge = _Judge(directory, k)
    trainer = Trainer(CodebookConfig(k=k, metric="cosine", seed=seed))
    began_s = time.process_time()
    rows = ArrayRows.of(judge.train_NM)
    holdout = ArrayRows.of(judge.holdout_NM[::4])
    states = [trainer.start(rows)]
    spent_s = time.process_time() - began_s
    found = [judge.judge("ours, start", spent_s, states[0].centroids_KD)]
    steps = trainer.train(states[0], rows, holdout)
    for seconds, state in _timed(steps):
        spent_s += seconds
        found.append(judge.judge(f"ours, step {state.step}", spent_s, state.centroids_KD))
    return found


def _timed(steps: Iterator[Any]) -> Iterator[tuple[float, Any]]:
    while True:
        began_s = time.process_time()
        state = next(steps, None)
        if state is None:
            return
        yield time.process_time() - began_s, state


SIDES = {"faiss": _faiss, "ours": _ours}

if __name__ == "__main__":
    main()
