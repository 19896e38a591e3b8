"""Which models a config asks for: one a named model, or one a fold and model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from configs.errors import ConfigError
from configs.schema import Config, Model, NeuralModel, TrainConfig
from shards.codebook import codebook_names
from shards.commit import CommitRecord, StageLog
from shards.layout import Layout

STAGE = "fit"
WEIGHTS_NAME = "model.safetensors"
CARD_NAME = "model.json"


@dataclass(frozen=True)
class Job:
    """One model to train on the tokens of one codebook (and with one fold left out)."""

    layout: Layout
    tokens: str  # the name of the codebook, and so of the token set
    fold: int | None
    model: str
    config: Model

    @property
    def name(self) -> str:
        """The model's directory: `bert`, `fold1-bert`, `k5000-bert`."""
        return self.model if self.tokens == "default" else f"{self.tokens}-{self.model}"

    @property
    def directory(self) -> Path:
        return self.layout.model(self.name)

    @property
    def partial(self) -> Path:
        return self.directory / "partial"

    @property
    def log(self) -> StageLog:
        return StageLog(self.layout, STAGE, self.name, self.partial)

    def epochs(self, config: TrainConfig) -> int:
        """The model's own number, or the recipe's."""
        own = self.config.epochs if isinstance(self.config, NeuralModel) else None
        return own or config.epochs

    def lr(self, config: TrainConfig) -> float:
        """The model's own rate, or the recipe's."""
        own = self.config.lr if isinstance(self.config, NeuralModel) else None
        return own or config.lr

    def record(self) -> CommitRecord | None:
        """The commit record of the trained model, None before `fit` has finished."""
        return self.log.record(0)


def jobs(config: Config) -> Iterator[Job]:
    """All jobs of a config, fold by fold; raises ConfigError where it names no model."""
    if not config.model:
        known = ", ".join(config.models) or "none is described under models"
        raise ConfigError("model", [f"say which model to train: model=NAME (known: {known})"])
    layout = Layout(config.run)
    for tokens, fold in codebook_names(config.codebook, config.split):
        for model in config.model:
            yield Job(layout, tokens, fold, model, config.models[model])
