"""`train compare`: scored models of runs side by side, in a table and on a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from configs.console import answer, counted, say
from shards.atomic import write_whole
from shards.layout import Layout
from train.entries import Entry, entries, unscored
from train.evaluate import SHARES
from train.pages.page import page
from train.pages.scores import rounded

Json = dict[str, Any]
PAGE_NAME = "compare.html"


def compare(runs: Sequence[Path], out: Path | None = None) -> int:
    """Print the table, write the page (`compare.html` in the first run, unless `out` says where),
    and end with one JSON line; raises NotMadeYet where nothing is scored."""
    found = entries(runs)
    path = out or runs[0] / PAGE_NAME
    title = f"{counted(len(found), 'model')} of {', '.join(run.resolve().name for run in runs)}"
    tree = {"title": title, "entries": [_of_entry(entry) for entry in found]}
    for run in runs:
        if missing := unscored(run):
            say(f"not scored yet: {', '.join(missing)}; run `python -m train eval {run}`")
    write_whole(Layout(path.parent).partial, path, page("compare.html", title, tree))
    _say_table(found)
    say(f"{path}: {title}")
    answer(_summary(found))
    return 0


def _of_entry(entry: Entry) -> Json:
    card = entry.folds[0].model.card
    return {
        "title": entry.title,
        "folds": len(entry.folds),
        "clips": sum(fold.scores["clips"] for fold in entry.folds),
        "scores": {name: entry.mean(name) for name in (*SHARES, "d_prime", "prior_map")},
        "interval": rounded(np.array(entry.interval)),
        "replicates": [None if np.isnan(value) else value for value in entry.replicates_B.tolist()],
        "ids": entry.ids,
        "aps": entry.aps,
        "valid": [fold.validations() for fold in entry.folds],
        "kind": card["model"]["kind"],
        "settings": entry.folds[0].settings,
        "vocabulary": [card["codebooks"], card["k"]],
    }


def _say_table(found: Sequence[Entry]) -> None:
    """In percent, the best first."""
    width = max(len(entry.title) for entry in found) + 2
    columns = {"accuracy": "accuracy", "map": "mAP", "mauc": "mAUC", "f1_macro": "F1"}
    shown = [name for name in columns if any(entry.mean(name) is not None for entry in found)]
    head = [f"{columns[name]:>10}" + (f"{'+-':>8}" if name == "map" else "") for name in shown]
    say(f"{'model, in %':<{width}}{'clips':>8}" + "".join(head))
    for entry in found:
        clips = sum(fold.scores["clips"] for fold in entry.folds)
        cells = [_cell(entry, name) for name in shown]
        say(f"{entry.title:<{width}}{clips:>8}" + "".join(cells))


def _cell(entry: Entry, name: str) -> str:
    value, (low, high) = entry.mean(name), entry.interval
    text = f"{'' if value is None else f'{100 * value:.2f}':>10}"
    return text + (f"{50 * (high - low):>8.2f}" if name == "map" else "")


def _summary(found: Sequence[Entry]) -> dict[str, float]:
    """Means over folds, in percent: `bert_map`, `k50-bert_map`, `run/bert_map` ..."""
    return {
        f"{entry.title}_{name}": round(100 * value, 2)
        for entry in found
        for name in ("accuracy", "map")
        if (value := entry.mean(name)) is not None
    }
