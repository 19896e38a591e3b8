"""`make bench`: each one runs, here with a few clips, and ends in its keys."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT

AUDIOSET = ROOT / "../shared/data/audioset"
ESC10 = ROOT / "../shared/data/esc10"


def last_line(*command: str) -> dict[str, float | str]:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, float | str] = json.loads(done.stdout.splitlines()[-1])
    return report


@pytest.mark.slow
def test_ingest() -> None:
    report = last_line(
        *("benchmarks.ingest", "--clips", "8", "--rounds", "1", "--peer-decoder", "soundfile")
    )
    assert report["bench"] == "ingest"
    for key in ("vs_naive_torchaudio", "vs_floor", "ms_per_clip"):
        assert float(report[key]) > 0
    # A difference of two measurements, which one round on a busy machine may turn.
    assert abs(float(report["flac_ms_more"])) < float(report["ms_per_clip"])


@pytest.mark.skipif(not AUDIOSET.is_dir(), reason="AudioSet's lists are not beside the repository")
def test_plan() -> None:
    report = last_line("benchmarks.plan", "--rows", "2000")
    assert (report["bench"], report["rows"]) == ("plan", 2_000)
    assert float(report["seconds"]) > 0
    assert float(report["peak_gib"]) > 0


@pytest.mark.slow
def test_stream(tmp_path: Path) -> None:
    """Beside the limit only: the peers would have to be installed."""
    words = ("--clips", "6000", "--rounds", "1", "--directory", str(tmp_path))
    report = last_line("benchmarks.stream", *words, "--sides", "ours", "memmap")
    assert report["bench"] == "stream"
    assert float(report["vs_memmap"]) > 0
    assert 5 < float(report["blocks_per_batch"]) <= 6
    assert float(report["resume_ms"]) > 0


@pytest.mark.slow
def test_stream_scale(tmp_path: Path) -> None:
    words = ("--clips", "6000", "--rounds", "1", "--directory", str(tmp_path))
    report = last_line("benchmarks.stream_scale", *words)
    assert (report["bench"], report["clips"]) == ("stream_scale", 6000)
    for key in ("open_ms", "rss_mib", "first_batch_ms"):
        assert float(report[key]) > 0


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where the frames of ESC-10 are kept, which several benchmarks share."""
    return str(tmp_path_factory.mktemp("frames"))


@pytest.mark.slow
def test_kmeans(frames: str) -> None:
    """One seed: whether its local optimum is as good as the other's is a matter of luck."""
    words = ("--k", "50", "--seeds", "1", "--directory", frames)
    report = last_line("benchmarks.kmeans", *words)
    assert (report["bench"], report["seeds"]) == ("kmeans", 1)
    assert float(report["vs_faiss_k50"]) == 0 or float(report["vs_faiss_k50"]) > 0.5


@pytest.mark.slow
def test_assign(frames: str) -> None:
    report = last_line(
        "benchmarks.assign", "--k", "50", "500", "--rounds", "1", "--directory", frames
    )
    assert (report["bench"], report["tokens_differing"]) == ("assign", 0)
    for key in ("gemm_share_k50", "gemm_share_k500", "vs_faiss_k500"):
        assert float(report[key]) > 0


@pytest.mark.slow
def test_codebook_scale(frames: str) -> None:
    words = ("--frames", "400000", "1600000", "--directory", frames)
    report = last_line("benchmarks.codebook_scale", *words)
    assert report["bench"] == "codebook_scale"
    assert float(report["frames_per_s"]) > 0
    assert 0.8 < float(report["rss_growth"]) < 1.3


@pytest.mark.slow
@pytest.mark.skipif(not ESC10.is_dir(), reason="ESC-10 is not at ../shared/data/esc10")
def test_bag(tmp_path: Path) -> None:
    words = ("--k", "50", "--folds", "2", "--presets", "seed", "pcen")
    words += ("--directory", str(tmp_path))
    report = last_line("benchmarks.bag", *words)
    assert report["bench"] == "bag"
    assert float(report["accuracy"]) > float(report["seed_accuracy"]) > 40


@pytest.mark.slow
def test_train(tmp_path: Path) -> None:
    """Beside the bare calls only: the peer's package would have to be installed."""
    words = (
        "--rounds",
        "1",
        "--steps",
        "3",
        "--warm-up",
        "1",
        "--batch",
        "2",
        "--micro-batch",
        "1",
    )
    sides = ("--sides", "bare", "--directory", str(tmp_path))
    report = last_line("benchmarks.train", *words, *sides)
    assert report["bench"] == "train"
    assert abs(float(report["overhead_share"])) < 0.5
    assert 0 <= float(report["loader_wait_share"]) < 0.5


def test_metrics() -> None:
    words = ("--clips", "4000", "--classes", "40", "--rounds", "3")
    report = last_line("benchmarks.metrics", *words)
    assert report["bench"] == "metrics"
    assert float(report["vs_sklearn"]) > 1
    assert float(report["max_abs_diff"]) <= 1e-9


@pytest.mark.slow
def test_predict(tmp_path: Path) -> None:
    words = ("--rounds", "1", "--files", "3", "--directory", str(tmp_path))
    report = last_line("benchmarks.predict", *words)
    assert report["bench"] == "predict"
    for key in ("ms", "ms_codebooks4", "decoder_ms", "tokens_ms", "model_ms"):
        assert float(report[key]) > 0
    assert float(report["ms"]) > float(report["decoder_ms"])
