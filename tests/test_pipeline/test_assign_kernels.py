"""The kernel of the BLAS does not decide tokens: not of close calls, not by cells."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

SCRIPT = """
import hashlib, numpy as np
from pipeline.audio.assign import Assigner, unit
random = np.random.default_rng(5)
centroids = (random.normal(size=(500, 64)).cumsum(axis=1) * 5 - 40).astype(np.float32)
one, other = centroids[random.integers(0, 500, (2, 5000))]
vectors = np.concatenate([(one + other) / 2, random.normal(size=(5000, 64)).cumsum(axis=1) * 5])
for metric in ("l2", "cosine"):
    scaled = unit(centroids) if metric == "cosine" else centroids
    tokens = Assigner(scaled, metric).tokens(vectors.astype(np.float32))
    print(hashlib.sha256(tokens.tobytes()).hexdigest())
"""


def test_the_kernel_of_the_blas_does_not_decide_tokens() -> None:
    plain = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    kernels = [{}, {"OPENBLAS_CORETYPE": "Haswell"}, {"OPENBLAS_CORETYPE": "Nehalem"}]
    outputs = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**plain, **kernel, "PYTHONPATH": str(ROOT)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for kernel in kernels
    }
    assert len(outputs) == 1
    assert len(outputs.pop().split()) == 2
