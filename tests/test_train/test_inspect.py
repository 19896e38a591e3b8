"""`train inspect`: tokens as they are stored, scores as they were computed, the clip's sound."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.special import expit

from configs.cli import main
from configs.schema import Config
from shards.layout import Layout
from shards.stream.tokens import open_tokens
from tests.browser import CHROMIUM, browser
from train.__main__ import VERBS
from train.data import job_data
from train.jobs import jobs

CopyRun = Callable[..., Config]


def scored(config: Config, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(
        Layout(config.run).model(name) / "scores.parquet"
    ).to_pylist()
    return rows


def data_of(path: Path) -> dict[str, Any]:
    found = re.search(r"^const DATA = (.*);$", path.read_text(), re.MULTILINE)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_a_clip_with_its_tokens_and_what_all_models_say(
    copy_run: CopyRun, capsys: pytest.CaptureFixture[str]
) -> None:
    config = copy_run()
    clip = scored(config, "linear")[0]
    assert main("train", VERBS, ["inspect", str(config.run), clip["id"]]) == 0
    said = capsys.readouterr().out
    page = config.run / "inspect.html"
    assert page.read_text().count("data:audio/flac;base64,") == 1, "it sounds the same to all"
    models = {tree["model"]: tree for tree in data_of(page)["models"]}
    assert models.keys() == {"bag", "linear"}
    data = job_data(config, next(iter(jobs(config))))
    row = data.ids.index(clip["id"])
    (tokens_TQ,) = open_tokens(Layout(config.run), "default").read(np.array([row])).clips()
    for name, tree in models.items():
        assert tree["split"] == "test"
        assert tree["clip"]["tokens"] == tokens_TQ.T.tolist()
        assert tree["clip"]["labels"] == clip["labels"]
        logits_C = {row["id"]: row["logits"] for row in scored(config, name)}[clip["id"]]
        for c, share in tree["clip"]["said"]:
            assert share == pytest.approx(expit(logits_C[c]), abs=1e-3)
        top, share = tree["clip"]["said"][0]
        assert f"{100 * share:5.1f} %  {tree['classes'][top]}" in said
    assert f"{len(tokens_TQ)} tokens of default" in said
    assert f": {tokens_TQ[0, 0]}" in said


def test_one_model_and_training_clips_too(copy_run: CopyRun) -> None:
    config = copy_run()
    data = job_data(config, next(iter(jobs(config))))
    clip_id = data.ids[data.rows("train")[0]]
    words = ["inspect", str(config.run), clip_id, "--model", "linear"]
    assert main("train", VERBS, words) == 0
    (tree,) = data_of(config.run / "inspect.html")["models"]
    assert (tree["model"], tree["split"]) == ("linear", "train")


def test_what_is_not_there_is_named(copy_run: CopyRun, capsys: pytest.CaptureFixture[str]) -> None:
    config = copy_run()
    known = scored(config, "linear")[0]["id"]
    assert main("train", VERBS, ["inspect", str(config.run), known[:-1] + "_"]) == 2
    said = capsys.readouterr().err
    assert f"no decoded clip has the id {known[:-1]}_" in said
    assert known in said, "the nearest one is named"
    assert main("train", VERBS, ["inspect", str(config.run), known, "--model", "lstm"]) == 2
    assert "no trained model lstm (there are: bag, linear)" in capsys.readouterr().err


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_page_in_a_browser(copy_run: CopyRun, tmp_path: Path) -> None:
    config = copy_run()
    clip_id = scored(config, "linear")[0]["id"]
    assert main("train", VERBS, ["inspect", str(config.run), clip_id]) == 0
    with browser(tmp_path / "chromium") as tab:
        tab.look(390, dark=True)
        tab.open(config.run / "inspect.html")
        assert tab.run("document.querySelectorAll('audio').length") == 2
        assert tab.run("document.querySelectorAll('canvas').length") == 4
        assert tab.run("document.documentElement.scrollWidth") <= 390
        assert tab.complaints == []
