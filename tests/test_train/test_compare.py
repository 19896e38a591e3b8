"""`train compare`: scored models side by side, folds together, differences over the same draws."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.cli import main
from configs.errors import NotMadeYet
from configs.schema import Config
from shards.layout import Layout
from tests.browser import CHROMIUM, browser
from train.__main__ import VERBS
from train.committed import Committed
from train.entries import Entry, Standing, entries, run_names
from train.pages.compare import compare

CopyRun = Callable[..., Config]


def data_of(path: Path) -> dict[str, Any]:
    found = re.search(r"^const DATA = (.*);$", path.read_text(), re.MULTILINE)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_models_of_a_run_side_by_side(
    copy_run: CopyRun, capsys: pytest.CaptureFixture[str]
) -> None:
    config = copy_run()
    assert main("train", VERBS, ["compare", str(config.run)]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    said = json.loads(last)
    data = data_of(config.run / "compare.html")
    assert {entry["title"] for entry in data["entries"]} == {"bag", "linear"}
    for entry in data["entries"]:
        scores = json.loads((Layout(config.run).model(entry["title"]) / "eval.json").read_text())
        assert entry["scores"]["map"] == scores["map"]
        assert said[f"{entry['title']}_map"] == pytest.approx(100 * scores["map"], abs=0.01)
        np.testing.assert_allclose(entry["interval"], scores["map_interval"], atol=1e-4)
        shown = [line for line in lines if line.startswith(entry["title"])]
        assert f"{100 * scores['map']:.2f}" in shown[0]
    maps = [entry["scores"]["map"] for entry in data["entries"]]
    assert maps == sorted(maps, reverse=True)
    assert len({entry["ids"] for entry in data["entries"]}) == 1, "scored on the same clips"
    (linear,) = [entry for entry in data["entries"] if entry["title"] == "linear"]
    assert linear["valid"][0][-1][2] > 0


def test_several_runs_in_any_order_of_words(copy_run: CopyRun, tmp_path: Path) -> None:
    one, other, out = copy_run(), tmp_path / "other", tmp_path / "page.html"
    shutil.copytree(one.run, other)
    shutil.rmtree(other / "commits" / "fit" / "bag")
    words = ["compare", str(one.run), "--out", str(out), str(other)]
    assert main("train", VERBS, words) == 0
    titles = {entry["title"] for entry in data_of(out)["entries"]}
    assert titles == {f"{one.run.name}/bag", f"{one.run.name}/linear", "other/linear"}
    assert not (one.run / "compare.html").exists()


def test_what_is_not_scored_is_said(
    copy_run: CopyRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = copy_run()
    for name in ("bag", "linear"):
        path = Layout(config.run).model(name) / "eval.json"
        path.write_text(path.read_text().replace('"map": 0.', '"map": 0.9', 1))
        if name == "bag":
            assert main("train", VERBS, ["compare", str(config.run)]) == 0
            said = f"not scored yet: bag; run `python -m train eval {config.run}`"
            assert said in capsys.readouterr().out
    with pytest.raises(NotMadeYet, match=r"no model is scored; run `python -m train eval"):
        entries([config.run])
    assert main("train", VERBS, ["compare", str(config.run), str(tmp_path)]) == 2
    assert f"{tmp_path} is no run" in capsys.readouterr().err


def standing(name: str, tokens: str, score: float, replicates: Any) -> Standing:
    classes = [{"id": f"/{letter}", "name": "Bell"} for letter in "ab"]
    card = {"codebook": {"name": tokens}, "classes": classes}
    committed = Committed(Layout(Path("run")), name, None, card)  # type: ignore[arg-type]
    aps = [score, None if score > 0.5 else 0.1]
    scores = {"map": score, "per_class": {"ap": aps}, "ids": tokens, "map_replicates": replicates}
    return Standing(committed, scores)


def test_folds_are_one_entry_with_their_means() -> None:
    one = standing("k50-fold1-bert", "k50-fold1", 0.4, [0.3, 0.5, None])
    two = standing("k50-fold2-bert", "k50-fold2", 0.6, [0.5, 0.9, None])
    assert one.title == two.title == ("k50-bert", True)
    assert standing("fold1-bert", "fold1", 0.1, []).title == ("bert", True)
    assert standing("k5-bert", "k5", 0.1, []).title == ("k5-bert", False)
    assert standing("my-bert", "default", 0.1, []).title == ("my-bert", False)
    entry = Entry("k50-bert", (one, two))
    assert entry.mean("map") == pytest.approx(0.5)
    assert entry.mean("accuracy") is None
    assert entry.replicates_B.tolist()[:2] == pytest.approx([0.4, 0.7])
    assert np.isnan(entry.replicates_B[2])
    assert entry.aps == {"/a": pytest.approx(0.5), "/b": 0.1}, "classes of one name are two"


def test_runs_of_one_name_are_told_apart() -> None:
    names = run_names([Path("/a/one/run"), Path("/a/two/run"), Path("/b/two/run")])
    assert names == ["a/one/run", "a/two/run", "b/two/run"]
    assert run_names([Path("/a/one"), Path("/a/two")]) == ["one", "two"]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_in_a_browser_what_is_compared_with_is_chosen(copy_run: CopyRun, tmp_path: Path) -> None:
    config = copy_run()
    compare([config.run])
    page = config.run / "compare.html"
    with browser(tmp_path / "chromium") as tab:
        for width in (1280, 390):
            tab.look(width)
            tab.open(page)
            assert tab.run("document.querySelectorAll('#table tbody tr').length") == 2
            assert tab.run("document.documentElement.scrollWidth") <= width
        cells = "[...document.querySelectorAll('#table tbody tr')].map(row => row.textContent)"
        best, other = tab.run(cells)
        assert "±" in other
        assert "±" not in best
        tab.run("(base => { base.value = 1; base.onchange({ target: base }); })(byId('base'))")
        best, other = tab.run(cells)
        assert "±" in best
        assert "±" not in other
        assert tab.run("document.querySelectorAll('#classes tbody tr').length") == 12
        assert "model.kind" in tab.run("byId('settings').textContent")
        assert "train.lr" in tab.run("byId('settings').textContent")
        assert tab.run("byId('size').parentNode.hidden"), "all are of one codebook"
        assert tab.complaints == []
        assert {url for url in tab.asked if not url.startswith("data:")} == {page.as_uri()}
