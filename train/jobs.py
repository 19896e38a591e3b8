"""Which models a config asks for, one a name or one a fold and name, and what decides each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.data import WHICH
from configs.errors import ConfigError
from configs.models import Model, NeuralModel
from configs.schema import Config, TrainConfig
from shards.codebook import codebook_names, open_codebook, refuse_another
from shards.commit import CommitRecord, StageLog, fingerprint, ids_sha256
from shards.layout import Layout
from shards.seal import open_seal
from shards.stream.choice import listed_ids
from shards.tokens import STAGE as TOKENS

STAGE = "fit"
WEIGHTS_NAME = "model.safetensors"
CARD_NAME = "model.json"
EVAL_NAME = "eval.json"
CHECKPOINTS_NAME = "checkpoints"
FORMAT, EVAL_FORMAT = 4, 3
# Settings of `train` that decide speed and safety, but not what is learnt from which examples. As
# the number of ranks, `micro_batch_size` decides how sums round, what dropout draws, and whom
# mixup mixes.
FREE_SETTINGS = {"device", "compile", "threads", "parallel", "micro_batch_size"}
FREE_SETTINGS |= {"checkpoint_every_steps", "keep_checkpoints", "tensorboard"}
OF_VALIDATION = {"evaluate_every_epochs"}


@dataclass(frozen=True)
class Job:
    """One model to train on the tokens of one codebook (and with one fold left out)."""

    layout: Layout
    tokens: str  # the name of the codebook, and so of the token set
    fold: int | None
    model_name: str
    model: Model

    @property
    def name(self) -> str:
        """The model's directory: `bert`, `fold1-bert`, `k5000-bert`."""
        prefix = "" if self.tokens == "default" else f"{self.tokens}-"
        return f"{prefix}{self.model_name}"

    @property
    def directory(self) -> Path:
        return self.layout.model(self.name)

    @property
    def checkpoints(self) -> Path:
        return self.directory / CHECKPOINTS_NAME

    @property
    def partial(self) -> Path:
        return self.directory / "partial"

    @property
    def log(self) -> StageLog:
        return StageLog(self.layout, STAGE, self.name, self.partial)

    def settings(self, config: TrainConfig) -> TrainConfig:
        """The recipe of the training, with the model's own number of epochs and rate if it has
        them."""
        if not isinstance(self.model, NeuralModel):
            return config
        own = {"epochs": self.model.epochs, "lr": self.model.lr}
        return config.model_copy(update={name: v for name, v in own.items() if v is not None})

    def record(self) -> CommitRecord | None:
        """The commit record of the trained model, None before `fit` has finished."""
        return self.log.record(0)


def stamp_of(record: CommitRecord) -> str:
    """What scores of a committed model say that they are of, and in which format."""
    return fingerprint([EVAL_FORMAT, *(vars(file) for file in record.files)])


def jobs(config: Config) -> Iterator[Job]:
    """All jobs of a config, fold by fold; raises ConfigError where it names no model."""
    if not config.model:
        known = ", ".join(config.models) or "none is described under models"
        raise ConfigError(
            "model",
            [
                f"say which model is meant: model=NAME (known: {known}), or for those of an "
                "earlier command line, give their run in place of the config"
            ],
        )
    layout = Layout(config.run)
    for tokens, fold in codebook_names(config.codebook, config.split):
        for model_name in config.model:
            yield Job(layout, tokens, fold, model_name, config.models[model_name])


def recipe(config: Config, job: Job) -> dict[str, Any]:
    """Everything that decides the weights, but for the kernels that round; raises RecipeMismatch
    where the config asks for another codebook than the tokens are of."""
    refuse_another(job.layout, job.tokens, config.codebook)
    return {
        "format": FORMAT,
        "tokens": open_seal(job.layout, TOKENS, job.tokens).fingerprint,
        "codebook": open_codebook(job.layout, job.tokens)[1],
        "split": config.split.model_dump(mode="json", exclude={"folds"}),
        "fold": job.fold,
        "data": _data_recipe(config, job),
        "model": job.model.model_dump(mode="json"),
        "train": _training_recipe(config, job),
    }


def _data_recipe(config: Config, job: Job) -> dict[str, Any]:
    """Which examples, and for what goes through them in steps, in which order."""
    names = WHICH | (config.data.deciding if isinstance(job.model, NeuralModel) else set())
    tree = config.data.model_dump(mode="json", include=names)
    if config.data.ids is not None:
        tree["ids"] = ids_sha256(sorted(listed_ids(config.data.ids)))
    return tree


def _training_recipe(config: Config, job: Job) -> dict[str, Any]:
    if not isinstance(job.model, NeuralModel):
        return {}
    settings = job.settings(config.train)
    free = FREE_SETTINGS if settings.heeds_validation else FREE_SETTINGS | OF_VALIDATION
    return settings.model_dump(mode="json", exclude=free)
