"""`make quickstart`: from a directory of class directories to a report, and the command to type
next."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from tests.commands import ROOT

PITCHES_HZ = {"high notes": 2_000, "low": 200}
SMALL = "codebook.k=8 models.bert.width=16 models.bert.layers=1 models.bert.epochs=2"
LIMIT_S = 300


def make(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a target without looking whether .venv is as it should be: this test runs in it."""
    return subprocess.run(
        ["make", "--no-print-directory", "-o", ".venv/.ready", *words],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "MAKEFLAGS"},
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("my") / "sounds"
    random = np.random.default_rng(0)
    at_s = np.arange(22_050) / 22_050
    for name, pitch_hz in PITCHES_HZ.items():
        (folder / name).mkdir(parents=True)
        for number in range(10):
            wave = np.sin(2 * np.pi * pitch_hz * at_s) + 0.1 * random.standard_normal(len(at_s))
            sf.write(folder / name / f"{number}.wav", 0.5 * wave, 22_050)
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".venv").exists(), reason="make would make .venv first")
def test_a_folder_becomes_a_report_and_a_command_that_works(sounds: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = make("quickstart", f"DIR={sounds}", f"RUN={run}", f"ARGS={SMALL}")
    assert done.returncode == 0, done.stdout + done.stderr
    page = (run / "models/bert/report.html").read_text()
    assert "high notes" in page
    *_, last = done.stdout.splitlines()
    words = last.partition(":  ")[2]
    assert words.startswith(".venv/bin/python -m train predict")
    said = subprocess.run(
        words.replace("FILE", f"'{sounds}/low/3.wav'"),
        shell=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=LIMIT_S,
    ).stdout
    assert "high notes" in said  # both classes have a share


def test_without_a_folder_it_says_what_to_type() -> None:
    done = make("quickstart")
    assert done.returncode == 2
    assert "make quickstart DIR=/data/sounds" in done.stderr


def test_two_folders_of_one_name_are_two_runs(tmp_path: Path) -> None:
    runs = set()
    for parent in ("a", "b"):
        (tmp_path / parent / "sounds").mkdir(parents=True)
        said = make("-n", "quickstart", f"DIR={tmp_path / parent / 'sounds'}").stdout
        (run,) = {word for word in said.split('"') if word.startswith("run=runs/sounds-")}
        runs.add(run)
    assert len(runs) == 2
