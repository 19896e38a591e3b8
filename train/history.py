"""The scores of a training's validations, and what follows from them.

All of it is a function of the scores so far, which checkpoints hold: a resumed training lowers its
rate, stops and chooses where the undisturbed one does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from configs.schema import TrainConfig


@dataclass
class History:
    """Scores by the step after which they were had; higher is better."""

    scores: dict[int, float] = field(default_factory=dict)

    @property
    def best_step(self) -> int | None:
        """The first step that scored highest."""
        return max(self.scores, key=self.scores.__getitem__, default=None)

    def best_until(self, step: int) -> int | None:
        """What was the best after a step."""
        return History({s: score for s, score in self.scores.items() if s <= step}).best_step

    def num_reductions(self, patience: int) -> int:
        """How often `patience` validations in a row brought nothing new, each counted once."""
        reductions = waited = 0
        for is_better in self._gains():
            waited = 0 if is_better else waited + 1
            if waited == patience:
                reductions, waited = reductions + 1, 0
        return reductions

    def is_over(self, config: TrainConfig) -> bool:
        """Whether the last `early_stop` validations brought nothing new."""
        gains = [*self._gains()]
        patience = config.early_stop
        return patience is not None and len(gains) > patience and not any(gains[-patience:])

    def _gains(self) -> Iterator[bool]:
        best = float("-inf")
        for score in self.scores.values():
            yield score > best
            best = max(best, score)
