"""`make bench`: each one runs, here with a few clips, and ends in its keys."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.commands import ROOT

AUDIOSET = ROOT / "../shared/data/audioset"


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
    for key in ("vs_naive_torchaudio", "vs_floor", "ms_per_clip", "flac_ms_more"):
        assert float(report[key]) > 0


@pytest.mark.skipif(not AUDIOSET.is_dir(), reason="AudioSet's lists are not beside the repository")
def test_plan() -> None:
    report = last_line("benchmarks.plan", "--rows", "2000")
    assert (report["bench"], report["rows"]) == ("plan", 2_000)
    assert float(report["seconds"]) > 0
    assert float(report["peak_gib"]) > 0
