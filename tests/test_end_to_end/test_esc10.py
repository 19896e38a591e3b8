"""Real recordings: one fold of ESC-10, from audio to the scores of the quick models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import ROOT, run, succeed

ESC10 = ROOT / "../shared/data/esc10"
CONFIG = ROOT / "configs/esc10.yaml"


@pytest.mark.slow
@pytest.mark.skipif(not ESC10.is_dir(), reason="ESC-10 is not at ../shared/data/esc10")
def test_tokens_of_real_audio_tell_its_kinds_apart(tmp_path: Path) -> None:
    overrides = [f"run={tmp_path / 'run'}", "split.folds=[2]", "model=bag,linear"]
    overrides.append("cluster.kind=inline")
    succeed("pipeline", "all", CONFIG, *overrides)
    succeed("train", "fit", CONFIG, *overrides)
    scores = json.loads(succeed("train", "eval", CONFIG, *overrides).splitlines()[-1])
    assert scores["bag_accuracy"] > 82  # all five folds: 88
    assert scores["linear_accuracy"] > 50
    assert scores["prior_map"] == pytest.approx(10.0)


def test_a_missing_data_set_is_explained(tmp_path: Path) -> None:
    overrides = [f"run={tmp_path / 'run'}", f"source.root={tmp_path / 'nowhere'}"]
    done = run("pipeline", "shard", CONFIG, *overrides)
    assert done.returncode == 2
    assert "karolpiczak/ESC-50" in done.stderr
    assert "Traceback" not in done.stderr
