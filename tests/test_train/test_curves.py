"""Every model learns 64 clips by heart, and its first 100 steps lose what they lost before.

The curves are in `golden/`, one a model: what changes them is a change of the recipe, which is to
be seen in a diff. `GOLDEN=write pytest tests/test_train/test_curves.py` writes them anew.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from configs.models import FrameModel, Model
from configs.schema import Config, TrainConfig
from shards.layout import Layout
from tests.test_train.conftest import MakeData
from train.data import TokenData, open_data
from train.logits import logits_of
from train.loop import prepare, train
from train.metrics import evaluate
from train.models import build
from train.ranks import Ranks
from train.stop import Stop
from train.training import Fit

GOLDEN = Path(__file__).parent / "golden"
STEPS, CLIPS = 100, 64
BERT = {"layers": 2, "width": 32, "heads": 2, "max_positions": 80, "pooling": "mean"}
SECTIONS: dict[str, dict[str, Any]] = {
    "ast": {"kind": "ast", "layers": 2, "width": 32, "heads": 2, "mean": -30, "std": 12},
    "bert": {"kind": "bert", **BERT, "embedding": "random"},
    "bert_centroids": {"kind": "bert", **BERT, "stride": 2, "bag_path": True},
    "bert_frames": {"kind": "bert_frames", **BERT, "stride": 2},
    "cnn": {"kind": "cnn", "channels": [8, 16], "hidden": 32},
    "cnn4": {"kind": "cnn", "channels": [8, 16, 32, 64], "hidden": 0},
    "linear": {"kind": "linear", "width": 64, "embedding": "random"},
    "lstm": {"kind": "lstm", "width": 32, "hidden": 32, "pooling": "mean", "embedding": "random"},
    "mlp": {"kind": "mlp", "hidden": [64, 32]},
}
SECTIONS["ast"] |= {"max_length": 80}
RATES = {"linear": 0.03, "mlp": 0.002, "lstm": 0.01}
EPOCHS = {"cnn": 120, "lstm": 120}  # to learn all by heart; else 60
with_models = pytest.mark.parametrize("name", SECTIONS)


def section_of(name: str) -> Any:
    return TypeAdapter(Model).validate_python(SECTIONS[name] | {"dropout": 0})


def all_clips(finished: Config, section: Any) -> TokenData:
    """The clips of the run, every one of them to train on."""
    reads = section.reads if isinstance(section, FrameModel) else "tokens"
    data = open_data(Layout(finished.run), "default", finished.split, None, reads=reads)
    return replace(data, splits=np.zeros_like(data.splits))


def begun(name: str, data: TokenData, place: Path, epochs: int) -> tuple[Fit, torch.nn.Module]:
    assert len(data.rows("train")) == CLIPS
    config = TrainConfig(
        epochs=epochs, batch_size=16, lr=RATES.get(name, 0.005), weight_decay=0.0, threads=1
    )
    fit = Fit(name, place, place / "partial", "made", data, config, Ranks(torch.device("cpu")))
    prepare(config)
    return fit, build(section_of(name), data.seen, len(data.classes), data.longest)


@with_models
def test_it_learns_64_clips_by_heart(
    name: str, finished: Config, random_data: MakeData, tmp_path: Path
) -> None:
    """`linear` made ones, with more tokens: by 16 it cannot tell all clips apart."""
    is_made = name == "linear"
    data = random_data((64, 0, 0), k=64) if is_made else all_clips(finished, section_of(name))
    fit, model = begun(name, data, tmp_path, EPOCHS.get(name, 60))
    train(fit, model, Stop())
    logits_NC = logits_of(model, fit.data, fit.rows, CLIPS, fit.ranks.device)
    assert evaluate(logits_NC, fit.data.targets(fit.rows), fit.data.task)["map"] > 0.95


@with_models
def test_the_first_100_steps_lose_what_they_lost_before(
    name: str, finished: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.loop.LOG_EVERY_STEPS", 5)
    data = all_clips(finished, section_of(name))
    fit, model = begun(name, data, tmp_path, STEPS * 16 // CLIPS)
    train(fit, model, Stop())
    records = [record for record in fit.journal.read() if "loss" in record]
    assert records[-1]["step"] == STEPS
    text = "".join(f"{record['step']:3d} {record['loss']:.4f}\n" for record in records)
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("GOLDEN") == "write":
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text)
    found, kept = (np.array(t.split(), dtype=float) for t in (text, golden.read_text()))
    np.testing.assert_allclose(found, kept, rtol=0.05, atol=0.005)
