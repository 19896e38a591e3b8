"""`make bench NAME=plan`: AudioSet's 2,041,789 unbalanced rows, from the CSV to a frozen plan.

The rows are made from the real balanced list's: its label lists, start times and alphabet of ids.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from configs.schema import Config
from pipeline.planning import frozen_plan
from shards.commit import StageLog
from shards.index import NAME, STAGE
from shards.layout import Layout

ROOT = Path(__file__).resolve().parent.parent
AUDIOSET = ROOT / "../shared/data/audioset"
ROWS = 2_041_789
ALPHABET = np.frombuffer(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", dtype=np.uint8
)


def write_list(path: Path, num_rows: int) -> None:
    """A segment list of `num_rows` rows with the real list's distribution of everything else."""
    real = (AUDIOSET / "balanced_train_segments.csv").read_text().splitlines()
    tails = [line.partition(",")[2] for line in real if not line.startswith("#")]
    rng = np.random.default_rng(0)
    letters = ALPHABET[rng.integers(64, size=(num_rows, 11))]
    ids = letters.view("S11").ravel().astype(str)
    chosen = rng.integers(len(tails), size=num_rows)
    with path.open("w") as file:
        file.write("# Segments csv\n# num_ytids\n# YTID, start_seconds, end_seconds, labels\n")
        file.writelines(f"{i},{tails[c]}\n" for i, c in zip(ids, chosen, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description="2,041,789 rows to a frozen plan")
    parser.add_argument("--rows", type=int, default=ROWS)
    args = parser.parse_args()
    if not AUDIOSET.is_dir():
        print(f"AudioSet's lists are not at {AUDIOSET}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as work:
        path = Path(work, "unbalanced_train_segments.csv")
        write_list(path, args.rows)
        before_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        config = _config(path, Path(work, "run"))
        began_s = time.monotonic()
        plan = frozen_plan(config, StageLog(Layout(config.run), STAGE, NAME))
        seconds = time.monotonic() - began_s
        table_mb = plan.table_path.stat().st_size / 1e6
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(f"{plan.num_clips} clips in {plan.num_shards} shards, plan of {table_mb:.1f} MB")
    print(f"{seconds:.2f} s, peak {peak_gib:.2f} GiB ({before_mib:.0f} MiB before)")
    report = {"bench": "plan", "seconds": round(seconds, 2), "peak_gib": round(peak_gib, 2)}
    print(json.dumps({**report, "rows": plan.num_clips}))
    return 0


def _config(segments: Path, run: Path) -> Config:
    return Config.model_validate(
        {
            "run": str(run),
            "source": {
                "kind": "audioset",
                "root": "data",
                "classes": str(AUDIOSET / "class_labels_indices.csv"),
                "ontology": str(AUDIOSET / "ontology.json"),
                "sets": {"unbalanced": {"segments": str(segments)}},
            },
        }
    )


if __name__ == "__main__":
    sys.exit(main())
