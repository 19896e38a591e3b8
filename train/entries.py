"""Models that were scored, from the files of their runs alone: what is compared with what.

The models of a run's folds make one entry: their scores are means, and so are those of each draw of
clips, by which two entries on the same clips have a difference with an interval.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import NotMadeYet
from shards.audit import JOURNAL_NAME
from shards.codebook import fold_of
from shards.commit import StageLog, ids_sha256
from shards.layout import Layout
from train.bootstrap import interval, mean_known
from train.committed import Committed, model_names, open_model
from train.jobs import STAGE
from train.journal import Journal
from train.ranking import Doubles

Json = dict[str, Any]
SECTIONS = ("model", "train", "data")  # of a recipe that people choose


@dataclass(frozen=True)
class Standing:
    """One committed model and its scores."""

    model: Committed
    scores: Json

    @property
    def title(self) -> tuple[str, bool]:
        """Its name without that of the fold, and whether it is of one."""
        name, tokens = self.model.name, str(self.model.card["codebook"]["name"])
        own = name if tokens == "default" else name[len(tokens) + 1 :]
        codebook, fold = fold_of(tokens) or (tokens, None)
        return own if codebook == "default" else f"{codebook}-{own}", fold is not None

    @property
    def aps(self) -> dict[str, float]:
        """Average precision by the title of the class."""
        found = zip(self.model.titles, self.scores["per_class"]["ap"], strict=True)
        return {title: ap for title, ap in found if ap is not None}

    @property
    def replicates_B(self) -> Doubles:  # noqa: N802 - its shape
        """mAP over draws of clips; NaN where a draw holds no positive."""
        return np.array(self.scores["map_replicates"], dtype=np.float64)

    @property
    def settings(self) -> Json:
        """What was asked for in its training, by dotted names."""
        recipe = StageLog(self.model.layout, STAGE, self.model.name).recipe()
        known: Json = recipe or {"model": self.model.card["model"]}
        return dict(_flat({name: known[name] for name in SECTIONS if name in known}))

    def validations(self) -> list[list[float]]:
        """Step, loss and mAP of every validation; a bag has none."""
        directory = self.model.layout.model(self.model.name)
        journal = Journal(directory / JOURNAL_NAME, directory / "partial")
        return [
            [record["step"], record["valid_loss"], record["valid_map"]]
            for record in (journal.read() if journal.path.exists() else [])
            if "valid_loss" in record
        ]


@dataclass(frozen=True)
class Entry:
    """A model of a run, or the models of its folds."""

    title: str
    folds: tuple[Standing, ...]

    def mean(self, name: str) -> float | None:
        """Of a score, None where a fold has none."""
        values = [fold.scores.get(name) for fold in self.folds]
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if len(known) == len(values) else None

    @property
    def replicates_B(self) -> Doubles:  # noqa: N802 - its shape
        return mean_known([fold.replicates_B for fold in self.folds])

    @property
    def interval(self) -> tuple[float, float]:
        """Of mAP."""
        score = self.mean("map")
        assert score is not None, "every model has a mAP"
        return interval(score, self.replicates_B)

    @property
    def ids(self) -> str:
        """Equal for entries that were scored on the same clips."""
        return ids_sha256([fold.scores["ids"] for fold in self.folds])

    @property
    def aps(self) -> dict[str, float]:
        """Means over the folds that have the class."""
        names = dict.fromkeys(name for fold in self.folds for name in fold.aps)
        return {
            name: float(np.mean([fold.aps[name] for fold in self.folds if name in fold.aps]))
            for name in names
        }


def _flat(tree: Json, above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def unscored(run: Path) -> list[str]:
    """The models of a run that are trained, but have no scores."""
    layout = Layout(run)
    return [name for name in model_names(layout) if not open_model(layout, name).scores()]


def entries(runs: Sequence[Path]) -> list[Entry]:
    """Everything that is scored in some runs, the highest mAP first; raises NotMadeYet where a run
    has nothing."""
    names = run_names(runs)
    found = [
        Entry(f"{name}/{entry.title}" if len(runs) > 1 else entry.title, entry.folds)
        for run, name in zip(runs, names, strict=True)
        for entry in _entries_of(run)
    ]
    return sorted(found, key=lambda entry: -(entry.mean("map") or 0.0))


def run_names(runs: Sequence[Path]) -> list[str]:
    """As little of their paths' ends as tells them apart."""
    parts = [run.resolve().parts for run in runs]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(own[-length:]) for own in parts]
        if len({*names}) == len({*parts}):
            break
    return names


def _entries_of(run: Path) -> Iterator[Entry]:
    layout = Layout(run)
    models = [open_model(layout, name) for name in model_names(layout)]
    standings = [Standing(model, scores) for model in models if (scores := model.scores())]
    if not standings:
        raise NotMadeYet(f"{run}: no model is scored; run `python -m train eval {run}` first")
    standings.sort(key=lambda one: (one.title, one.model.name))
    for (title, is_of_fold), same in groupby(standings, key=lambda one: one.title):
        is_shared = any(one.title == (title, not is_of_fold) for one in standings)
        yield Entry(f"{title}, folds" if is_of_fold and is_shared else title, tuple(same))
