"""Train the codebooks of one vocabulary, one after the other, a step at a time.

Under `product` each codebook learns its own part of the vectors, under `residual` what the ones
before left over.

Legend: N rows, B of a batch, D numbers in each, Q codebooks, K centroids.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from configs.codebook import CodebookConfig
from pipeline.audio.assign import Assigner, CentroidsKD
from pipeline.audio.engines import Build
from pipeline.audio.steps import VectorsTD
from pipeline.kmeans import Rows, State, Trainer, WeightsN

Tensors = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Training:
    """Where the training of all codebooks stands: those that are done, and the one at work."""

    done: tuple[State, ...] = ()
    current: State | None = None

    @property
    def centroids_QKD(self) -> npt.NDArray[np.float32]:  # noqa: N802 - its shape
        return np.stack([state.centroids_KD for state in self.done])

    @property
    def step(self) -> int:
        """How many steps there were, of all codebooks."""
        return sum(state.step for state in self._states)

    @property
    def _states(self) -> tuple[State, ...]:
        return self.done if self.current is None else (*self.done, self.current)

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """All that a resume needs."""
        return {
            f"{number}.{name}": array
            for number, state in enumerate(self._states)
            for name, array in _to_tensors(state).items()
        }

    @classmethod
    def resumed(cls, tensors: Tensors) -> Self:
        """As `tensors` gave it."""
        numbers = sorted({int(name.partition(".")[0]) for name in tensors})
        states = [_of_tensors(tensors, number) for number in numbers]
        done = tuple(state for state in states if state.is_final)
        return cls(done, states[-1] if len(done) < len(states) else None)


def train_codebooks(
    training: Training, config: CodebookConfig, rows: Rows, holdout: Rows, build: Build
) -> Iterator[Training]:
    """Go on from `training`, yielding after every step, until every codebook is done."""
    while len(training.done) < config.codebooks:
        trainer = Trainer(config, build, number=len(training.done))
        of_rows, of_holdout = (
            _seen(some, config, training.done, build) for some in (rows, holdout)
        )
        state = training.current
        if state is None:
            state = trainer.start(of_rows)
            yield Training(training.done, state)
        for after_step in trainer.train(state, of_rows, of_holdout):
            state = after_step
            if not state.is_final:
                yield Training(training.done, state)
        training = Training((*training.done, state))
        yield training


def _seen(rows: Rows, config: CodebookConfig, done: tuple[State, ...], build: Build) -> Rows:
    """What the next codebook learns from."""
    if config.codebooks == 1:
        return rows
    if config.combine == "product":
        return _Subvectors(rows, len(done), config.codebooks)
    assigners = tuple(Assigner(state.centroids_KD, config.metric, build) for state in done)
    return _Residual(rows, tuple(state.centroids_KD for state in done), assigners)


@dataclass(frozen=True)
class _Subvectors:
    """The numbers of each vector that one codebook of a product covers."""

    rows: Rows
    number: int
    num_codebooks: int

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, rows: slice) -> tuple[VectorsTD, WeightsN]:
        vectors_BD, weights_B = self.rows.read(rows)
        width = vectors_BD.shape[1] // self.num_codebooks
        columns = slice(self.number * width, (self.number + 1) * width)
        return np.ascontiguousarray(vectors_BD[:, columns]), weights_B


@dataclass(frozen=True)
class _Residual:
    """What finished codebooks leave of each vector."""

    rows: Rows
    centroids: tuple[CentroidsKD, ...]
    assigners: tuple[Assigner, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, rows: slice) -> tuple[VectorsTD, WeightsN]:
        left_BD, weights_B = self.rows.read(rows)
        for centroids_KD, assigner in zip(self.centroids, self.assigners, strict=True):
            left_BD = left_BD - centroids_KD[assigner.tokens(left_BD)]
        return left_BD, weights_B


def _to_tensors(state: State) -> dict[str, npt.NDArray[Any]]:
    return {
        "centroids": state.centroids_KD,
        "counts": state.counts_K,
        "step": np.array([state.step, state.is_final], dtype=np.int64),
        "train_errors": np.array(state.train_errors, dtype=np.float64),
        "pass_errors": np.array(state.pass_errors, dtype=np.float64),
    }


def _of_tensors(tensors: Tensors, number: int) -> State:
    def tensor(name: str) -> npt.NDArray[Any]:
        return tensors[f"{number}.{name}"]

    step, is_final = tensor("step").tolist()
    return State(
        tensor("centroids"),
        tensor("counts"),
        step,
        tuple(tensor("train_errors").tolist()),
        tuple(tensor("pass_errors").tolist()),
        bool(is_final),
    )
