"""`make bench NAME=metrics`: macro mAP of 20,000 clips and 527 classes, ours and scikit-learn's.

Scores and labels are made: as many labels a clip as AudioSet has, classes as uneven as there.
Sides take turns, one process, one thread; the ratio is of their medians.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from statistics import median

import numpy as np
from sklearn.metrics import average_precision_score

from train.bootstrap import map_replicates
from train.metrics import evaluate
from train.ranking import Doubles, Scores, per_class_ap

LABELS_A_CLIP = 1.98
SPREAD = 1.5  # of the logarithm of a class's share: 15,000 : 1 between the outermost of 527


def made(num_clips: int, num_classes: int) -> tuple[Scores, Scores]:
    """Scores and labels, both float32 [N, C]."""
    random = np.random.default_rng(0)
    share_C = np.exp(random.normal(0, SPREAD, num_classes))
    share_C = np.minimum(share_C * LABELS_A_CLIP / share_C.sum(), 0.5)
    targets_NC = (random.random((num_clips, num_classes)) < share_C).astype(np.float32)
    scores_NC = random.standard_normal(targets_NC.shape, dtype=np.float32) + 2 * targets_NC
    return scores_NC, targets_NC


def theirs(scores_NC: Scores, targets_NC: Scores) -> Doubles:
    with warnings.catch_warnings():  # classes without positives
        warnings.simplefilter("ignore")
        return np.asarray(average_precision_score(targets_NC, scores_NC, average=None))


def seconds_of(work: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s


def main() -> int:
    parser = argparse.ArgumentParser(description="mAP of 20,000 x 527")
    parser.add_argument("--clips", type=int, default=20_000)
    parser.add_argument("--classes", type=int, default=527)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    data = made(args.clips, args.classes)
    has_C = data[1].any(axis=0)
    off = np.abs(per_class_ap(*data) - theirs(*data))[has_C].max()
    sides = {"ours": lambda: per_class_ap(*data), "scikit-learn": lambda: theirs(*data)}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(args.rounds):
        for name, work in sides.items():
            times[name].append(seconds_of(work))
    for name, values in times.items():
        print(f"{name:<14}{median(values):8.3f} s  ({min(values):.3f} to {max(values):.3f})")
    print(f"all scores    {seconds_of(lambda: evaluate(*data, 'multilabel')):8.3f} s")
    print(f"its interval  {seconds_of(lambda: map_replicates(*data)):8.3f} s")
    ratio = median(times["scikit-learn"]) / median(times["ours"])
    print(f"{has_C.sum()} classes with positives; largest difference of an AP {off:.1e}")
    report = {"bench": "metrics", "vs_sklearn": round(ratio, 2), "max_abs_diff": float(off)}
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
