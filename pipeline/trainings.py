"""The trainings of a run: which are committed, and how far the others came."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from configs.errors import IntegrityError, NotMadeYet
from shards.audit import JOURNAL_NAME, SPEC_NAME, Spec
from shards.commit import StageLog, stage_logs
from shards.events import Tail
from shards.layout import Layout
from shards.lock import Holder, holder

FIT = "fit"


@dataclass(frozen=True)
class TrainingSight:
    """A training: whether it is committed, what it logged last, and who holds it, or held it.

    `step` and `epoch` are 0 before the first step; `num_epochs` is None where it is not known.
    """

    name: str
    is_committed: bool
    step: int
    epoch: float
    num_epochs: int | None
    holder: Holder | None

    @property
    def is_at_work(self) -> bool | None:
        """None where that cannot be seen from this host."""
        return False if self.holder is None else self.holder.is_alive

    @property
    def is_begun(self) -> bool:
        """Not after a refused config, which leaves a recipe and nothing else."""
        return self.is_committed or self.step > 0 or self.is_at_work is not False


class Trainings:
    """Looks at the trainings of one run again and again, and reads each line of a log once."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._tails: dict[str, Tail] = {}
        self._last: dict[str, dict[str, Any]] = {}

    def look(self) -> Iterator[TrainingSight]:
        """Those that have begun, in order of their names."""
        logs = [log for log in stage_logs(self._layout) if log.stage == FIT]
        return (sight for sight in map(self._sight, logs) if sight.is_begun)

    def _sight(self, log: StageLog) -> TrainingSight:
        directory = self._layout.model(log.name)
        tail = self._tails.setdefault(log.name, Tail(directory / JOURNAL_NAME))
        steps = [record for record in tail.new() if "epoch" in record]
        last = self._last[log.name] = steps[-1] if steps else self._last.get(log.name, {})
        try:
            num_epochs = Spec.read(directory / SPEC_NAME).num_epochs
        except (NotMadeYet, IntegrityError):  # of a bag, or half-written
            num_epochs = None
        return TrainingSight(
            name=log.name,
            is_committed=bool(log.committed()),
            step=last.get("step", 0),
            epoch=last.get("epoch", 0.0),
            num_epochs=num_epochs,
            holder=holder(self._layout.fit_lock(log.name)),
        )
