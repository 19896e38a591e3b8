"""What a model says of a file: probabilities of classes, by windows and over all of them.

Legend: T places of a window, Q codebooks, W windows, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.audio.quantise import TokensTQ
from pipeline.audio.refusal import ClipRefused

LogitsC = npt.NDArray[np.float32]
FloatsC = npt.NDArray[np.float64]
FloatsWC = npt.NDArray[np.float64]
Pool = Literal["mean", "max"]
WeightsW = npt.NDArray[np.float64]
POOLS: dict[Pool, Callable[[FloatsWC, WeightsW], FloatsC]] = {
    "mean": lambda scores_WC, weights_W: np.average(scores_WC, axis=0, weights=weights_W),
    "max": lambda scores_WC, _: scores_WC.max(axis=0),
}


@dataclass(frozen=True, eq=False)
class Classes:
    """What can be said of a file: titles of classes, and what makes one of them a label."""

    titles: tuple[str, ...]
    task: str  # multiclass: the likeliest class; multilabel: those that reach their threshold
    thresholds_C: npt.NDArray[np.float64]

    def top(self, scores_C: FloatsC, number: int) -> list[tuple[str, float]]:
        """The likeliest classes, of equal ones the first."""
        order = np.argsort(-scores_C, kind="stable")[:number]
        return [(self.titles[c], float(scores_C[c])) for c in order.tolist()]

    def labels(self, scores_C: FloatsC) -> list[str]:
        if self.task == "multiclass":
            return [self.titles[int(scores_C.argmax())]]
        return [self.titles[c] for c in np.flatnonzero(scores_C >= self.thresholds_C).tolist()]


@dataclass(frozen=True, eq=False)
class WindowPrediction:
    """A window of a file, with its tokens, its logits and its scores; a window with nothing to
    hear has none of these, but a reason."""

    start_s: float
    stop_s: float
    tokens_TQ: TokensTQ | None = None  # uint16
    logits_C: LogitsC | None = None
    scores_C: FloatsC | None = None  # probabilities
    refusal: ClipRefused | None = None


@dataclass(frozen=True, eq=False)
class Prediction:
    """A file of which one window at least could be heard."""

    file: str
    duration_s: float
    windows: tuple[WindowPrediction, ...]
    classes: Classes
    pool: Pool = "mean"

    @property
    def scores_WC(self) -> FloatsWC:  # noqa: N802 - its shape
        """Probabilities in every window that could be heard."""
        return np.stack([one.scores_C for one in self.windows if one.scores_C is not None])

    @cached_property
    def scores(self) -> FloatsC:
        """Probabilities [C] over the file: the mean over its windows, or the largest."""
        return POOLS[self.pool](self.scores_WC, self._weights_W)

    @property
    def _weights_W(self) -> WeightsW:  # noqa: N802 - its shape
        """[W], in proportion to the seconds of the file that are nearest to the centre of each
        window, of those that could be heard: the last window, which ends where the file does, may
        repeat nearly all of the one before, and no second should count twice."""
        centres_s = np.array([(one.start_s + one.stop_s) / 2 for one in self.windows])
        between_s = (centres_s[1:] + centres_s[:-1]) / 2
        seconds = np.diff(between_s, prepend=0.0, append=self.duration_s)
        heard = seconds[[one.scores_C is not None for one in self.windows]]
        weights: WeightsW = heard / heard[0]  # so that one alone is not rounded
        return weights

    @property
    def labels(self) -> list[str]:
        return self.classes.labels(self.scores)

    def top(self, number: int = 5) -> list[tuple[str, float]]:
        """The likeliest classes of the file, and their probabilities."""
        return self.classes.top(self.scores, number)

    @property
    def left_out(self) -> list[WindowPrediction]:
        """Windows that could not be heard."""
        return [one for one in self.windows if one.refusal is not None]


@dataclass(frozen=True)
class Refused:
    """A file of which no window could be heard, or whose decoder died; `reason` is a key of
    `pipeline.audio.refusal.REASONS`."""

    file: str
    reason: str
    detail: str

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}: {self.detail}"


def record_of(found: Prediction | Refused) -> dict[str, Any]:
    """All that is known of a file, as JSON and Parquet hold it."""
    if isinstance(found, Refused):
        nothing = dict.fromkeys(("duration_s", "labels", "scores", "windows"))
        return {"file": found.file, "reason": found.reason, "detail": found.detail, **nothing}
    return {
        "file": found.file,
        "reason": None,
        "detail": None,
        "duration_s": found.duration_s,
        "labels": found.labels,
        "scores": found.scores.tolist(),
        "windows": [_window_record(one) for one in found.windows],
    }


def _window_record(window: WindowPrediction) -> dict[str, Any]:
    refusal, scores_C, tokens_TQ = window.refusal, window.scores_C, window.tokens_TQ
    return {
        "start_s": window.start_s,
        "stop_s": window.stop_s,
        "reason": None if refusal is None else refusal.reason,
        "scores": None if scores_C is None else scores_C.tolist(),
        "tokens": None if tokens_TQ is None else tokens_TQ.tolist(),
    }
