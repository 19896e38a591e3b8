"""`make bench NAME=codebook_scale`: one assignment pass over made frames, 10 and 100 million.

Frames come as the store gives them, float16 in shards of 441,344 rows (1,024 clips of 431), made
from real ones; each shard goes through a codebook (k=500, l2) to exact tokens, whose use is
counted. One thread; a process each. `gemm_share` is that of the largest rate of a float32 product
in the same process, `rss_growth` the peak memory of the larger pass over that of the smaller. What
860 million frames (AudioSet) take is computed from it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SHARD_FRAMES = 1_024 * 431
AUDIOSET_FRAMES = 860_000_000
K = 500
PEAK_SIZE = 2_048


def main() -> None:
    args = _arguments()
    if args.measure:
        print(json.dumps(_measured(args.directory, args.measure)))
        return
    small, large = (_in_a_new_process(args.directory, size) for size in args.frames)
    for found in (small, large):
        print(
            f"{found['frames'] / 1e6:.0f} million frames: {found['frames_per_s'] / 1e6:.3f} M/s, "
            f"{found['gemm_share']:.1%} of the product, peak {found['rss_mib']:.0f} MiB"
        )
    hours = AUDIOSET_FRAMES / large["frames_per_s"] / 3600
    each = f"{hours:.2f} core-hours ({60 * hours / 16:.1f} min on 16)"
    print(f"860 million frames at k={K}, without front end and reading: {each}")
    report = {
        "bench": "codebook_scale",
        "frames_per_s": round(large["frames_per_s"]),
        "gemm_share": round(large["gemm_share"], 3),
        "rss_growth": round(large["rss_mib"] / small["rss_mib"], 3),
        "audioset_assign_core_hours": round(hours, 2),
    }
    print(json.dumps(report))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frames", type=int, nargs=2, default=[10_000_000, 100_000_000])
    parser.add_argument("--directory", type=Path, default=ROOT / "runs/bench/kmeans")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def _in_a_new_process(directory: Path, num_frames: int) -> dict[str, Any]:
    words = [sys.executable, "-m", "benchmarks.codebook_scale", "--directory", str(directory)]
    done = subprocess.run(
        [*words, "--measure", str(num_frames)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _measured(directory: Path, num_frames: int) -> dict[str, Any]:
    import numpy as np

    from benchmarks.esc_frames import esc_frames
    from configs.codebook import CodebookConfig, FrontEndConfig
    from pipeline.audio.quantise import Quantiser
    from pipeline.kmeans import ArrayRows, Trainer
    from shards.codebook import Codebook

    pool_NM = esc_frames(directory).train_NM
    trainer = Trainer(CodebookConfig(k=K, passes=2))
    rows = ArrayRows.of(pool_NM[: 64 * K])
    *_, state = trainer.train(trainer.start(rows), rows, ArrayRows.of(pool_NM[:0]))
    front_end = FrontEndConfig().model_dump(mode="json")
    quantiser = Quantiser(Codebook(state.centroids_KD[None], "l2", front_end, {}, 22_050, "made"))
    stored_NM = pool_NM.astype(np.float16)
    random = np.random.default_rng(0)
    counts_K = np.zeros(K, dtype=np.int64)
    spent_s, left = 0.0, num_frames
    peaks = [_peak()]
    while left:
        chosen = random.integers(0, len(stored_NM), min(left, SHARD_FRAMES))
        shard_NM = stored_NM[chosen]  # off the clock: a worker would decode them
        began_s = time.process_time()
        clips = np.array_split(shard_NM, max(1, len(shard_NM) // 431))
        for tokens_TQ in quantiser.tokens_of(clips):
            counts_K += np.bincount(tokens_TQ[:, 0], minlength=K)
        spent_s += time.process_time() - began_s
        left -= len(shard_NM)
        peaks.append(_peak())  # now and then: what the machine can do changes over minutes
    assert counts_K.sum() == num_frames
    per_s = num_frames / spent_s
    return {
        "frames": num_frames,
        "frames_per_s": per_s,
        "gemm_share": per_s * 2 * K * pool_NM.shape[1] / float(np.median(peaks)),
        "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _peak() -> float:
    """Float32 operations a second of a large product."""
    import numpy as np

    square = np.random.default_rng(0).random((PEAK_SIZE, PEAK_SIZE), dtype=np.float32)
    began_s = time.process_time()
    np.matmul(square, square)
    return 2 * PEAK_SIZE**3 / (time.process_time() - began_s)


if __name__ == "__main__":
    main()
