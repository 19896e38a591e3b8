"""Models that were scored, from the files of their runs alone: what is compared with what.

The models of a run's folds make one entry: their scores are means, and so are those of each draw of
clips, by which two entries on the same clips have a difference with an interval.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from configs.errors import NotMadeYet
from shards.audit import JOURNAL_NAME
from shards.codebook import fold_of
from shards.commit import ids_sha256
from shards.layout import Layout
from train.bootstrap import interval, map_replicates, mean_known
from train.committed import model_names, open_model
from train.evaluate import SCORES_NAME, kept_scores
from train.jobs import stamp_of
from train.journal import Journal
from train.metrics import ranked_by
from train.ranking import Doubles

Json = dict[str, Any]


@dataclass(frozen=True)
class Standing:
    """One committed model and its scores."""

    run: Path
    name: str  # of its directory, as `k50-fold1-bert`
    card: Mapping[str, Any]
    scores: Json

    @property
    def directory(self) -> Path:
        return Layout(self.run).model(self.name)

    @property
    def tokens(self) -> str:
        name: str = self.card["codebook"]["name"]
        return name

    @property
    def title(self) -> str:
        """The name without the fold."""
        model = self.name if self.tokens == "default" else self.name[len(self.tokens) + 1 :]
        codebook, _ = fold_of(self.tokens) or (self.tokens, None)
        return model if codebook == "default" else f"{codebook}-{model}"

    @property
    def aps(self) -> dict[str, float]:
        """Average precision by the name of the class."""
        names = [name["name"] for name in self.card["classes"]]
        found = zip(names, self.scores["per_class"]["ap"], strict=True)
        return {name: ap for name, ap in found if ap is not None}

    @cached_property
    def clips(self) -> tuple[str, Doubles]:
        """Which clips were scored, and macro mAP [B] over draws of them; in the order of their ids,
        so that the draws are those of any other model."""
        table = pq.read_table(self.directory / SCORES_NAME).sort_by("id")
        logits_NC = np.array(table["logits"].to_pylist(), dtype=np.float32)
        targets_NC = np.zeros_like(logits_NC)
        for n, labels in enumerate(table["labels"].to_pylist()):
            targets_NC[n, labels] = 1
        ranked_NC = ranked_by(logits_NC, self.card["task"])
        return ids_sha256(table["id"].to_pylist()), map_replicates(ranked_NC, targets_NC)

    def validations(self) -> list[list[float]]:
        """Step, loss and mAP of every validation; a bag has none."""
        journal = Journal(self.directory / JOURNAL_NAME, self.directory / "partial")
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
        return mean_known([fold.clips[1] for fold in self.folds])

    @property
    def interval(self) -> tuple[float, float]:
        """Of mAP."""
        score = self.mean("map")
        assert score is not None, "every model has a mAP"
        return interval(score, self.replicates_B)

    @property
    def ids(self) -> str:
        """Equal for entries that were scored on the same clips."""
        return ids_sha256([fold.clips[0] for fold in self.folds])

    @property
    def aps(self) -> dict[str, float]:
        """Means over the folds that have the class."""
        names = dict.fromkeys(name for fold in self.folds for name in fold.aps)
        return {
            name: float(np.mean([fold.aps[name] for fold in self.folds if name in fold.aps]))
            for name in names
        }


def entries(runs: Sequence[Path]) -> list[Entry]:
    """Everything that is scored in some runs, the highest mAP first; raises NotMadeYet where a run
    has nothing."""
    found = [entry for run in runs for entry in _entries_of(run, len(runs) > 1)]
    return sorted(found, key=lambda entry: -(entry.mean("map") or 0.0))


def _entries_of(run: Path, are_several: bool) -> Iterator[Entry]:
    standings = sorted(_standings(run), key=lambda one: (one.title, one.name))
    if not standings:
        raise NotMadeYet(f"{run}: no model is scored; run `python -m train eval {run}` first")
    for title, same in groupby(standings, key=lambda one: one.title):
        yield Entry(f"{run.resolve().name}/{title}" if are_several else title, tuple(same))


def _standings(run: Path) -> Iterator[Standing]:
    """The scored models of a run; scores of another model than is committed do not count."""
    layout = Layout(run)
    for name in model_names(layout):
        scores = kept_scores(layout.model(name))
        if scores and scores["model"] == stamp_of((model := open_model(layout, name)).record):
            yield Standing(run, name, model.card, scores)
