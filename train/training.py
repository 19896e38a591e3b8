"""One training: what all of its parts ask for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from configs.schema import TrainConfig
from shards.audit import JOURNAL_NAME
from shards.stream.schedule import Schedule
from train.batches import Rows
from train.board import BOARD_NAME, Board
from train.data import TokenData
from train.jobs import CHECKPOINTS_NAME
from train.journal import Journal
from train.kept import Kept
from train.losses import Loss, build_loss
from train.ranks import Ranks
from train.readers import Reader, open_reader


@dataclass(frozen=True)
class Fit:
    """One training: where it lives, what it trains on, how, and on which ranks."""

    title: str
    directory: Path
    partial: Path
    fingerprint: str
    data: TokenData
    config: TrainConfig
    ranks: Ranks

    @cached_property
    def rows(self) -> Rows:
        return self.data.rows("train")

    @cached_property
    def reader(self) -> Reader:
        return open_reader(self.data, self.rows, self.config, self.ranks.world)

    @cached_property
    def loss(self) -> Loss:
        return build_loss(self.config, self.data.task, lambda: self.data.count_classes(self.rows))

    @cached_property
    def is_validated(self) -> bool:
        return len(self.data.rows("valid")) > 0

    @property
    def schedule(self) -> Schedule:
        return self.reader.sampler.schedule

    @property
    def num_steps(self) -> int:
        return self.schedule.num_steps

    def ends_evaluated_epoch(self, done: int) -> bool:
        """Whether the step that was done last passed a multiple of `evaluate_every_epochs`, or
        was the last."""
        if done == self.num_steps:
            return True
        steps = max(0, done - 1), done
        before, after = (self.schedule.place_of(step).epoch for step in steps)
        span = self.config.evaluate_every_epochs
        return after // span > before // span

    @property
    def checkpoints(self) -> Path:
        return self.directory / CHECKPOINTS_NAME

    @property
    def kept(self) -> Kept:
        return Kept(self.checkpoints, self.partial, self.fingerprint, self.config, self.ranks)

    @cached_property
    def journal(self) -> Journal:
        path, is_on = self.directory / BOARD_NAME, self.config.tensorboard
        board = Board(path, self.partial, is_on=is_on)
        return Journal(self.directory / JOURNAL_NAME, self.partial, board)

    def log(self, record: dict[str, object], *, lasts: bool = False) -> None:
        if self.ranks.is_first:
            self.journal.append(record, lasts=lasts)
