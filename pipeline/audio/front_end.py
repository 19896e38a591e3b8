"""Front ends: from a clip's stored frames to the vectors that are clustered and tokenised.

A front end is a chain of steps. Some are fitted to training clips; what they learnt is saved in
the codebook, so that codebook training, tokenising and prediction do the same with a clip.

Legend: T frames of a clip, M mel bins, D numbers in a vector.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from configs.codebook import FrontEndConfig, StepConfig
from pipeline.audio.half import to_float32
from pipeline.audio.steps import APPLY, FIT, OF_WHOLE_CLIPS, Arrays, VectorsTD
from pipeline.audio.threads import one_blas_thread

FIT_VECTORS = 2**15  # that a step is fitted to
ROWS_TOGETHER = 2**11
LARGEST_TO_FIT = 1e15

FramesTM = npt.NDArray[np.floating[Any]]
Chosen = slice | npt.NDArray[np.bool_] | npt.NDArray[np.int64]


@dataclass(frozen=True)
class FrontEnd:
    """Steps, and the arrays that each was fitted to."""

    config: FrontEndConfig = field(default_factory=FrontEndConfig)
    arrays: tuple[Arrays, ...] = ()

    @classmethod
    def fit(cls, config: FrontEndConfig, clips: Sequence[FramesTM]) -> Self:
        """Fit the steps of a front end, one after the other, to clips of stored frames [T, M];
        their silent frames, where those are masked, teach nothing, and of very many the others
        are looked at with gaps. Raises ValueError where a step makes numbers that are too large
        for the next one."""
        audible = [~cls(config).silent(frames_TM) for frames_TM in clips]
        stride = math.ceil(sum(map(np.count_nonzero, audible)) / FIT_VECTORS) or 1
        vectors = [to_float32(frames_TM) for frames_TM in clips]
        made: list[Arrays] = []
        waiting: list[tuple[StepConfig, Arrays]] = []  # steps that widen are done when asked for
        with one_blas_thread:
            for step in config.steps:
                fit = FIT.get(step.kind)
                seen = (
                    _bounded(_applied(vectors_TD, waiting)[is_audible_T][::stride], step)
                    for vectors_TD, is_audible_T in zip(vectors, audible, strict=True)
                )
                made.append({} if fit is None else fit(step, seen))
                waiting.append((step, made[-1]))
                width = vectors[0].shape[1] if vectors else 0
                if step is not config.steps[-1] and step.width(width) <= width:
                    vectors = [_applied(vectors_TD, waiting) for vectors_TD in vectors]
                    waiting = []
        return cls(config, tuple(made))

    @classmethod
    def restored(cls, config: Mapping[str, Any], tensors: Arrays) -> Self:
        """As `config.model_dump()` and `tensors()` gave it."""
        steps = FrontEndConfig.model_validate(config)
        arrays: list[dict[str, npt.NDArray[Any]]] = [{} for _ in steps.steps]
        for name, array in tensors.items():
            number, _, own_name = name.partition(".")
            arrays[int(number)][own_name] = array
        return cls(steps, tuple(arrays))

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """What was fitted, by the number of its step: `1.mean`."""
        return {
            f"{number}.{name}": array
            for number, arrays in enumerate(self.arrays)
            for name, array in arrays.items()
        }

    def vectors(self, frames_TM: FramesTM) -> VectorsTD:
        """The vectors [T, D] float32 of one clip's stored frames [T, M], silent ones included."""
        return self.vectors_of([frames_TM], [slice(None)])

    def vectors_of(self, clips: Sequence[FramesTM], chosen: Sequence[Chosen]) -> VectorsTD:
        """The vectors [N, D] of the chosen frames of many clips, one clip after the other.

        Steps that look at one vector at a time are applied to the chosen ones only, and to those
        of many clips together: the same bits, sooner.
        """
        steps = list(zip(self.config.steps, self.arrays, strict=True))
        whole = [step.kind in OF_WHOLE_CLIPS for step in self.config.steps]
        split = max((number + 1 for number, is_whole in enumerate(whole) if is_whole), default=0)
        pairs = zip(clips, chosen, strict=True)
        parts = (_applied(to_float32(clip_TM), steps[:split])[rows] for clip_TM, rows in pairs)
        if split == len(steps):
            return np.concatenate(list(parts))
        with one_blas_thread:  # there is too little at a time for more
            made = [_applied(some_ND, steps[split:]) for some_ND in _together(parts)]
        return np.concatenate(made)

    def silent(self, frames_TM: FramesTM) -> npt.NDArray[np.bool_]:
        """Which frames [T] are masked."""
        if self.config.mask_below_db is None:
            return np.zeros(len(frames_TM), dtype=np.bool_)
        # in float64 a sum of float16 values is exact: no order of summing decides
        means_T = to_float32(frames_TM).mean(axis=1, dtype=np.float64)
        return np.asarray(means_T < self.config.mask_below_db)


def _together(parts: Iterable[VectorsTD]) -> Iterator[VectorsTD]:
    """Joined, until there are ROWS_TOGETHER; one array at least."""
    waiting: list[VectorsTD] = []
    for part_TD in parts:
        waiting.append(part_TD)
        if sum(map(len, waiting)) >= ROWS_TOGETHER:
            yield np.concatenate(waiting)
            waiting = [part_TD[:0]]
    yield np.concatenate(waiting)


def _applied(vectors_TD: VectorsTD, steps: Iterable[tuple[StepConfig, Arrays]]) -> VectorsTD:
    for step, arrays in steps:
        vectors_TD = APPLY[step.kind](step, arrays, vectors_TD)
    return vectors_TD


def _bounded(vectors_TD: VectorsTD, step: StepConfig) -> VectorsTD:
    """Vectors whose squares can be added up in float32."""
    if not np.abs(vectors_TD).max(initial=0) < LARGEST_TO_FIT:
        raise ValueError(f"what step {step.kind} is given holds NaN or numbers above 1e15")
    return vectors_TD
