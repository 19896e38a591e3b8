"""Committed models by themselves: what a run holds of them where tokens and frames are gone.

Legend: C classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter

from configs.errors import InputError, IntegrityError, NotMadeYet
from configs.models import AstModel, BagModel, BertShape, MlpModel, Model
from shards.atomic import sha256_file
from shards.codebook import Codebook, open_codebook
from shards.commit import REPAIR, CommitRecord, StageLog, fingerprint, stage_logs
from shards.layout import Layout
from shards.plan import ClassName
from shards.seal import check_bytes
from train.jobs import CARD_NAME, EVAL_NAME, FORMAT, STAGE, WEIGHTS_NAME, stamp_of
from train.metrics import HALF

SCORES_NAME = "scores.parquet"
WITH_POSITIONS = (BertShape, MlpModel, AstModel)
MODEL: TypeAdapter[Model] = TypeAdapter(Model)


@dataclass(frozen=True)
class Committed:
    """A trained model: its name, its commit record, and the card that lies beside its weights."""

    layout: Layout
    name: str
    record: CommitRecord
    card: Mapping[str, Any]

    @property
    def weights(self) -> Path:
        """Raises IntegrityError where the file is not the one on record."""
        check_bytes(self.layout.root, _file(self.record, WEIGHTS_NAME))
        return self.layout.model(self.name) / WEIGHTS_NAME

    @cached_property
    def model(self) -> Model:
        return MODEL.validate_python(self.card["model"])

    @property
    def is_bag(self) -> bool:
        return isinstance(self.model, BagModel)

    @property
    def has_positions(self) -> bool:
        """Whether longer clips than it was trained on are nothing to it."""
        return isinstance(self.model, WITH_POSITIONS)

    @property
    def longest(self) -> int:
        """Places of the longest clip of its data set."""
        return int(self.card["longest"])

    @property
    def task(self) -> str:
        return str(self.card["task"])

    @property
    def titles(self) -> tuple[str, ...]:
        """What its classes are called: their names, or their ids where two have one name."""
        classes = [ClassName(**one) for one in self.card["classes"]]
        names = [one.name for one in classes]
        is_clear = len(set(names)) == len(names)
        return tuple(names if is_clear else [one.id for one in classes])

    def codebook(self) -> Codebook:
        """The one that made its tokens; raises IntegrityError where the run has another now."""
        name = self.card["codebook"]["name"]
        codebook, found = open_codebook(self.layout, name)
        if found != self.card["codebook"]["fingerprint"]:
            raise IntegrityError(
                f"{self.layout.root}: model {self.name} was trained on tokens of another codebook "
                f"{name} than the run holds now: train it again"
            )
        return codebook

    def thresholds(self) -> npt.NDArray[np.float64]:
        """From which probability on a clip has a label, [C]: as evaluation tuned it, or a half."""
        scores = self.scores()
        tuned = scores["thresholds"] if scores else None
        return np.array(tuned or [HALF] * len(self.titles))

    def scores(self) -> dict[str, Any]:
        """What evaluation kept of it; empty where that is not of this model."""
        kept = kept_scores(self.layout.model(self.name))
        return kept if kept and kept["model"] == stamp_of(self.record) else {}


def kept_scores(directory: Path) -> dict[str, Any]:
    """The scores in the `eval.json` of a model's directory; empty where they, or the logits that
    they are of, changed."""
    try:
        kept: dict[str, Any] = json.loads((directory / EVAL_NAME).read_bytes())
        signature = kept.pop("sha256")
        logits_sha256 = sha256_file(directory / SCORES_NAME)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return {}
    is_whole = signature == fingerprint(kept) and kept["logits_sha256"] == logits_sha256
    return kept if is_whole else {}


def open_model(layout: Layout, name: str | None = None) -> Committed:
    """A run's trained model of that name; without one, the only one, bags of tokens aside.

    Raises NotMadeYet where none is trained, InputError where none or several could be meant,
    IntegrityError where its card changed.
    """
    names = model_names(layout)
    if not names:
        raise NotMadeYet(f"{layout.root}: no model is trained; run `python -m train fit` first")
    if name is not None and name not in names:
        raise InputError(f"{layout.root}: no model {name} is trained; there is {', '.join(names)}")
    found = [_open(layout, one) for one in names if name in (None, one)]
    meant = [one for one in found if not one.is_bag] or found
    if len(meant) > 1:
        known = ", ".join(one.name for one in found)
        raise InputError(f"{layout.root} holds several models: say which, by --model: {known}")
    return meant[0]


def model_names(layout: Layout) -> list[str]:
    """Those that are committed."""
    return [log.name for log in stage_logs(layout) if log.stage == STAGE and 0 in log.committed()]


def _open(layout: Layout, name: str) -> Committed:
    log = StageLog(layout, STAGE, name)
    record, recipe = log.record(0), log.recipe()
    assert record is not None, "it is committed"
    if recipe is not None and recipe.get("format") != FORMAT:
        raise NotMadeYet(
            f"{layout.root}: model {name} is of another format than {FORMAT}, this version's: "
            "train it again, under another name"
        )
    check_bytes(layout.root, _file(record, CARD_NAME))
    card = json.loads((layout.model(name) / CARD_NAME).read_bytes())
    return Committed(layout, name, record, card)


def _file(record: CommitRecord, name: str) -> Any:
    """The record of a file of that name."""
    for file in record.files:
        if Path(file.path).name == name:
            return file
    raise IntegrityError(f"model {record.name}: its record names no {name}; {REPAIR}")
