"""What tests share: a small set of generated clips, configs for it, and one finished run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from configs.load import merge
from configs.schema import Config
from pipeline.synth import write_set

settings.register_profile("audiolex", deadline=None)  # a shared machine pauses at any moment
settings.load_profile("audiolex")
# Tests run side by side: threads that spin while they wait take the cores that others need.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

NUM_CLIPS = 64
CLIP_S = 1.5

MakeConfig = Callable[..., Config]


@pytest.fixture(scope="session")
def made_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of 64 generated clips of 1.5 s (51 train, 13 eval) with AudioSet-format lists.

    Shared by all tests: copy it before changing anything.
    """
    directory = tmp_path_factory.mktemp("clips")
    write_set(directory, NUM_CLIPS, seed=7, seconds=CLIP_S)
    return directory


def tiny_tree(clips: Path, run: Path) -> dict[str, Any]:
    """A config tree for a job of seconds on made clips: 8 shards, 16 tokens, one process."""
    return {
        "run": str(run),
        "source": {
            "kind": "audioset",
            "root": str(clips),
            "classes": str(clips / "class_labels_indices.csv"),
            "sets": {
                "train": {
                    "segments": str(clips / "train_segments.csv"),
                    "files": "audio/{id}.flac",
                },
                "eval": {
                    "segments": str(clips / "eval_segments.csv"),
                    "files": "audio/{id}.flac",
                    "split": "test",
                },
            },
        },
        "codebook": {"k": 16, "passes": 3, "device": "cpu"},
        "models": {
            "bag": {"kind": "bag"},
            "linear": {"kind": "linear", "width": 16},
            "lstm": {"kind": "lstm", "width": 16, "hidden": 16},
            "bert": {"kind": "bert", "layers": 1, "width": 16, "heads": 2, "max_positions": 80},
        },
        "model": ["bag", "linear"],
        "train": {"epochs": 2, "batch_size": 16, "device": "cpu", "threads": 1},
        "cluster": {"kind": "inline"},
    }


@pytest.fixture(autouse=True)
def denormals() -> Iterator[None]:
    """Training in this process flushes denormals to zero, which other tests must not inherit."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture
def make_config(made_clips: Path, tmp_path: Path) -> MakeConfig:
    """Build a tiny config in the test's own run directory; keywords lay sections over it."""

    def make(**over: Any) -> Config:
        return Config.model_validate(merge(tiny_tree(made_clips, tmp_path / "run"), over))

    return make


@pytest.fixture(scope="session")
def finished(made_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The config of a run that has gone through all stages, `fit` and `eval` of bag and linear.

    Shared by all tests: only read from it.
    """
    from pipeline.verbs import run_verb
    from train import evaluate, fit

    run = tmp_path_factory.mktemp("finished") / "run"
    config = Config.model_validate(tiny_tree(made_clips, run))
    assert run_verb(config, "all") == 0
    assert fit.run(config) == 0
    assert evaluate.run(config) == 0
    return config


@pytest.fixture(scope="session")
def registry() -> None:
    """Skips where no package can be had."""
    words = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps"]
    done = subprocess.run([*words, "iniconfig"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no package registry answers: {done.stderr.strip().splitlines()[-1]}")
