"""`make bench NAME=kmeans`: CPU time until a codebook is as good as 50 Lloyd iterations make it.

The reference is faiss.Kmeans, 50 iterations over all training frames, cosine. As good is within 1 %
of its error on training frames and on those of held-out clips, in the mean over the seeds: one
seed's local optimum moves the held-out error by more than that. Our trainer is looked at after
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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
        ratios |= _compared(args.directory, k, range(1, args.seeds + 1))
    print(json.dumps({"bench": "kmeans", **ratios, "seeds": args.seeds}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--k", type=int, nargs="+", default=[500, 5000])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--directory", type=Path, default=ROOT / "runs/bench/kmeans")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    return parser.parse_args()


def _compared(directory: Path, k: int, seeds: Sequence[int]) -> dict[str, float]:
    """How many times as long faiss takes, in the median over the seeds; prints the means."""
    theirs = _by_name([_in_a_new_process(directory, "faiss", k, seed) for seed in seeds])
    ours = _by_name(_of_equal_length([_in_a_new_process(directory, "ours", k, s) for s in seeds]))
    goal = theirs[-1]
    cheapest = min((run for run in theirs if run.is_as_good_as(goal)), key=lambda run: run.cpu_s)
    first = next((step for step in ours if step.is_as_good_as(goal)), None)
    for run in (*theirs, *ours):
        mark = " <" if run is cheapest or run is first else ""
        print(f"  k={k:<6}{run.described(goal)}{mark}", flush=True)
    ratio = 0.0
    if first is not None:
        pairs = zip(cheapest.runs, first.runs, strict=True)
        ratio = statistics.median(one["cpu_s"] / other["cpu_s"] for one, other in pairs)
    return {f"vs_faiss_k{k}": round(ratio, 2)}


@dataclass(frozen=True)
class _Runs:
    """The same run under every seed."""

    name: str
    runs: list[dict[str, Any]]

    @property
    def cpu_s(self) -> float:
        return self.mean("cpu_s")

    def mean(self, key: str) -> float:
        return float(statistics.mean(run[key] for run in self.runs))

    def is_as_good_as(self, goal: _Runs) -> bool:
        return all(self.mean(part) <= CLOSE * goal.mean(part) for part in ("train", "holdout"))

    def described(self, goal: _Runs) -> str:
        shares = {part: self.mean(part) / goal.mean(part) for part in ("train", "holdout")}
        spread = statistics.pstdev(run["holdout"] for run in self.runs) / goal.mean("holdout")
        return (
            f"{self.name:<24}{self.cpu_s:8.2f} s  train {shares['train']:.3f}  held-out "
            f"{shares['holdout']:.3f} +- {spread:.3f}"
        )


def _by_name(found: list[list[dict[str, Any]]]) -> list[_Runs]:
    return [_Runs(runs[0]["name"], list(runs)) for runs in zip(*found, strict=True)]


def _of_equal_length(found: list[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
    """Trainings that ended early stand at their last step while others go on."""
    longest = max(found, key=len)
    return [
        [*steps, *({**steps[-1], "name": run["name"]} for run in longest[len(steps) :])]
        for steps in found
    ]


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
    """After every step; equal frames are merged on the clock. No held-out frames say when to end:
    the training error does."""
    from configs.codebook import CodebookConfig
    from pipeline.kmeans import ArrayRows, Trainer

    judge = _Judge(directory, k)
    trainer = Trainer(CodebookConfig(k=k, metric="cosine", seed=seed))
    began_s = time.process_time()
    rows = ArrayRows.of(judge.train_NM)
    nothing = ArrayRows.of(judge.train_NM[:0])
    states = [trainer.start(rows)]
    spent_s = time.process_time() - began_s
    found = [judge.judge("ours, start", spent_s, states[0].centroids_KD)]
    steps = trainer.train(states[0], rows, nothing)
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
