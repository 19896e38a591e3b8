"""K-means at ten times the frames, in the same memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT

DRAW = """
import sys
from pathlib import Path
import numpy as np
from pipeline.draw import HOLDOUT, MASKED_COUNT, MASKED_SUM, TRAINING
from pipeline.workplace import Workplace

place, n = Workplace(Path(sys.argv[1]), "default", "of this test"), int(sys.argv[2]) // 10
centres_KD = np.random.default_rng(0).normal(size=(50, 64)) * 5
for shard in range(10):
    random = np.random.default_rng(shard)
    vectors_ND = (centres_KD[random.integers(0, 50, n)] + random.normal(size=(n, 64))).astype("f4")
    columns = {
        "vectors": vectors_ND,
        "frames": vectors_ND.astype("f2"),
        "weights": np.ones(n, "f4"),
        "is_digital_silence": np.zeros(n, bool),
    }
    tensors = {f"{TRAINING}.{name}": array for name, array in columns.items()}
    tensors |= {f"{HOLDOUT}.{name}": array[:100] for name, array in columns.items()}
    tensors[f"{TRAINING}.starts"] = np.linspace(0, n, 5).astype(np.int64)
    tensors[f"{HOLDOUT}.starts"] = np.array([0, 100])
    tensors |= {MASKED_SUM: np.zeros(64), MASKED_COUNT: np.zeros(1, np.int64)}
    place.write_drawn(shard, tensors)
"""

TRAIN = """
import json, resource, sys
from pathlib import Path
from configs.codebook import CodebookConfig
from pipeline.drawn import gather
from pipeline.kmeans import Trainer
from pipeline.workplace import Workplace

place = Workplace(Path(sys.argv[1]), "default", "of this test")
drawn = gather(place, 10)
rows, holdout = drawn.train, drawn.holdout
assert len(rows) == int(sys.argv[2])
trainer = Trainer(CodebookConfig(k=50, passes=2))
*_, last = trainer.train(trainer.start(rows), rows, holdout)
peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"peak_mib": peak_mib, "error": last.pass_errors[-1], "steps": last.step}))
"""


def run(script: str, directory: Path, num_rows: int) -> str:
    """In a process of its own; what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", script, str(directory), str(num_rows)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_ten_times_the_frames_take_the_same_memory(tmp_path: Path) -> None:
    small, large = (tmp_path / name for name in ("small", "large"))
    found = {}
    for directory, num_rows in ((small, 150_000), (large, 1_500_000)):
        directory.mkdir()
        run(DRAW, directory, num_rows)
        found[num_rows] = json.loads(run(TRAIN, directory, num_rows))
    assert found[1_500_000]["steps"] > found[150_000]["steps"], "it grew through more batches"
    assert found[1_500_000]["peak_mib"] < 1.1 * found[150_000]["peak_mib"]
    assert found[1_500_000]["error"] < 1.1 * found[150_000]["error"]
