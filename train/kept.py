"""Which checkpoints of a training are kept, where it goes on, and which one it ends with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from configs.console import say
from configs.errors import IntegrityError
from configs.schema import TrainConfig
from shards.stream.sampler import Cursor
from train import checkpoint
from train.history import History
from train.learner import Learner
from train.ranks import Ranks

REDO = "Remove it and all later ones, and the training goes on from an earlier one, or begins anew"


@dataclass(frozen=True)
class Kept:
    """The checkpoints in `directory`; `fingerprint` is that of the recipe. All ranks call each
    of its methods."""

    directory: Path
    partial: Path
    fingerprint: str
    config: TrainConfig
    ranks: Ranks

    def newest(self) -> tuple[Path, checkpoint.State] | None:
        """Where a training goes on; raises IntegrityError where that is of another one."""
        return checkpoint.open_newest(self.directory, self.partial, self.fingerprint, self.ranks)

    def is_due(self, done: int, history: History) -> bool:
        """Whether a step is to be kept."""
        is_best = self.config.select == "best" and history.best_step == done
        return is_best or done % self.config.checkpoint_every_steps == 0

    def save(self, learner: Learner, done: int, cursor: Cursor, history: History) -> None:
        """Keep what is learnt after a step, and remove what nobody will ask for."""
        state = checkpoint.State(done, self.fingerprint, cursor, history.scores)
        checkpoint.save(self.directory, self.partial, learner, state, self.ranks)
        if self.ranks.is_first:
            best_of = history.best_until if self.config.select == "best" else None
            count = self.config.keep_checkpoints
            checkpoint.keep_last(self.directory, self.partial, count, best_of)

    def warn_of_best(self, history: History) -> None:
        """Say early where that of the best step so far is not whole: a later one may score
        higher, and at the end it would be too late to wonder."""
        path, is_whole = self._best(history)
        if not is_whole:
            say(
                f"warning: {path}, which scored best so far, is damaged or gone: if no later step "
                f"scores higher, the training cannot end with it. {REDO}"
            )

    def best(self, history: History) -> Path | None:
        """That of the step that scored best, where a training ends with it; raises IntegrityError
        where it is not whole."""
        path, is_whole = self._best(history)
        if not is_whole:
            raise IntegrityError(f"{path}, which scored best, is damaged or gone. {REDO}")
        return path

    def _best(self, history: History) -> tuple[Path | None, bool]:
        """The same, and whether it is whole."""
        if self.config.select != "best" or (step := history.best_step) is None:
            return None, True
        path = self.directory / checkpoint.name_of(step)
        return path, not self.ranks.any(self.ranks.is_first and not checkpoint.is_whole(path))
