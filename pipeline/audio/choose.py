"""Which engine: the fastest here, by a short probe."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial

import faiss
import numpy as np

from configs.errors import InputError
from pipeline.audio.assign import Assigner
from pipeline.audio.engines import Build, Engine, Faiss, Gemm, RowsTE

PROBE_ROWS = {"cpu": 4096, "cuda": 2**17}  # a thread


def _fused(weight_KE: RowsTE) -> Engine:
    from pipeline.audio.assign_triton import Fused  # workers without a GPU have no torch

    return Fused(weight_KE)


BUILDS: dict[str, Mapping[str, Build]] = {
    "cpu": {"gemm": Gemm, "faiss": Faiss},
    "cuda": {"faiss": partial(Faiss, device="cuda"), "triton": _fused},
}


@dataclass(frozen=True)
class Choice:
    """An engine that was chosen.

    Args:
        build, name: the engine.
        device: `cpu` or `cuda`.
        rows_per_s: how fast each was in the probe.
        skipped: those that do not work here, and why.
    """

    build: Build
    name: str
    device: str
    rows_per_s: Mapping[str, float]
    skipped: Mapping[str, str]

    def __str__(self) -> str:
        parts = [f"{name} {rate / 1e6:.3g}" for name, rate in self.rows_per_s.items()]
        text = f"{self.name} ({', '.join(parts)} million frames/s"
        text += "".join(f"; not {name}: {reason}" for name, reason in self.skipped.items())
        if self.device == "cuda":
            return f"{text}; {faiss.get_num_gpus()} GPU)"
        return text + (")" if faiss.get_num_gpus() else "; faiss sees no GPU)")


def choose_device(asked: str) -> str:
    """`cuda` or `cpu`; `auto` takes GPUs where faiss sees one.

    Raises InputError where a GPU is asked for and faiss sees none.
    """
    num_gpus = faiss.get_num_gpus()
    if asked == "cuda" and not num_gpus:
        raise InputError("codebook.device=cuda, but faiss sees no GPU here: use auto or cpu")
    if asked == "auto":
        return "cuda" if num_gpus else "cpu"
    return asked


def choose_engine(k: int, num_dims: int, asked: str = "auto") -> Choice:
    """The fastest engine of this machine for K centroids of that many numbers.

    Raises InputError where a GPU is asked for and faiss sees none.
    """
    return _probed(k, num_dims, choose_device(asked))


@cache
def _probed(k: int, num_dims: int, device: str) -> Choice:
    rates: dict[str, float] = {}
    skipped: dict[str, str] = {}
    for name, build in BUILDS[device].items():
        try:
            rates[name] = _rate(build, k, num_dims, PROBE_ROWS[device])
        except Exception as error:  # whatever it lacks, another may do
            skipped[name] = f"{type(error).__name__}: {error}".partition("\n")[0]
    if not rates:
        raise InputError(f"codebook.device={device}: no engine works here: {skipped}")
    best = max(rates, key=lambda name: rates[name])
    return Choice(BUILDS[device][best], best, device, rates, skipped)


def _rate(build: Build, k: int, num_dims: int, rows_a_thread: int) -> float:
    """Vectors to exact tokens a second, on all threads: of noise, where no centroid can be ruled
    out before an engine compares them."""
    random = np.random.Generator(np.random.Philox(key=k))
    assigner = Assigner(random.standard_normal((k, num_dims), dtype=np.float32), "l2", build)
    num_rows = rows_a_thread * assigner.engine.num_threads
    vectors_TD = random.standard_normal((num_rows, num_dims), dtype=np.float32)
    assigner.tokens(vectors_TD)  # warms up
    begin_s = time.perf_counter()
    assigner.tokens(vectors_TD)
    return num_rows / (time.perf_counter() - begin_s)
