"""`train eval`: computed once a model, kept readable, and one JSON line for programs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from configs.errors import AudiolexError, NotMadeYet
from configs.schema import Config
from shards import plan as plans
from shards.layout import Layout
from train import evaluate, fit
from train.metrics import evaluate as score

CopyRun = Callable[..., Config]


def kept(config: Config, model: str) -> Path:
    return Layout(config.run).model(model) / "eval.json"


def stamp(path: Path) -> tuple[int, int]:
    """Changes when the file is written again."""
    return path.stat().st_ino, path.stat().st_mtime_ns


def test_the_last_line_is_one_json_object(
    copy_run: CopyRun, capsys: pytest.CaptureFixture[str]
) -> None:
    config = copy_run()
    assert evaluate.run(config) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"bag_map", "linear_map", "prior_map", "seconds"} <= line.keys()
    assert line["seconds"] > 0
    for model in ("bag", "linear"):
        scores = json.loads(kept(config, model).read_text())
        assert line[f"{model}_map"] == pytest.approx(100 * scores["map"], abs=0.01)
        assert line["prior_map"] == pytest.approx(100 * scores["prior_map"], abs=0.01)


@pytest.mark.parametrize("model", ["bag", "linear"])
def test_scores_parquet_holds_every_test_clip(model: str, finished: Config) -> None:
    scores = json.loads(kept(finished, model).read_text())
    table = pq.read_table(kept(finished, model).with_name("scores.parquet"))
    plan = plans.load(Layout(finished.run))
    columns = [plan.column(name).to_pylist() for name in ("id", "split", "labels")]
    expected = {
        clip_id: labels for clip_id, split, labels in zip(*columns, strict=True) if split == "test"
    }
    found = dict(zip(table["id"].to_pylist(), table["labels"].to_pylist(), strict=True))
    assert {clip_id: sorted(labels) for clip_id, labels in expected.items()} == found
    assert scores["clips"] == table.num_rows == len(expected)
    assert scores["split"] == "test"
    logits_NC = np.array(table["logits"].to_pylist(), dtype=np.float32)
    targets_NC = np.zeros_like(logits_NC)
    for n, labels in enumerate(table["labels"].to_pylist()):
        targets_NC[n, labels] = 1
    assert score(logits_NC, targets_NC, "multilabel")["map"] == pytest.approx(scores["map"])


def test_scores_are_kept_until_the_model_changes(copy_run: CopyRun) -> None:
    config = copy_run(model=("linear",))
    layout, path = Layout(config.run), kept(config, "linear")
    before = stamp(path)
    evaluate.run(config)
    assert stamp(path) == before, "the same model is not scored again"
    shutil.rmtree(layout.commits("fit", "linear"))
    shutil.rmtree(layout.model("linear") / "checkpoints")
    train = config.train.model_dump() | {"epochs": 1}
    other = Config.model_validate(config.model_dump() | {"train": train})
    assert fit.run(other) == 0
    evaluate.run(other)
    assert stamp(path) != before, "another model is"


@pytest.mark.parametrize("name", ["eval.json", "scores.parquet"])
def test_scores_that_were_altered_are_made_anew(copy_run: CopyRun, name: str) -> None:
    config = copy_run(model=("linear",))
    path = kept(config, "linear")
    before = json.loads(path.read_text())
    altered = path.with_name(name)
    altered.write_bytes(altered.read_bytes().replace(b"0.", b"0.9", 1) + b" ")
    evaluate.run(config)
    assert json.loads(path.read_text()) == before


def test_scores_of_another_writer_are_made_anew(copy_run: CopyRun) -> None:
    config = copy_run(model=("linear",))
    path = kept(config, "linear")
    before = path.read_text()
    path.write_text("[" * 100_000)
    evaluate.run(config)
    assert path.read_text() == before


def test_a_model_that_is_not_trained(copy_run: CopyRun) -> None:
    config = copy_run(model=("bag", "lstm"))
    with pytest.raises(NotMadeYet, match="python -m train fit"):
        evaluate.run(config)


@pytest.mark.parametrize(
    "over",
    [
        {"models": {"linear": {"kind": "linear", "width": 24}}},
        {"split": {"rule": "first_letter", "letters": "0123456789"}},
        {"codebook": {"k": 9}},
    ],
    ids=["model", "split", "codebook"],
)
def test_scores_of_other_settings_than_trained_with_are_refused(
    over: dict[str, Any], copy_run: CopyRun
) -> None:
    config = copy_run(model=("linear",), **over)
    kept(config, "linear").unlink()
    with pytest.raises(AudiolexError):
        evaluate.run(config)
