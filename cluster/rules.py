"""What a job wants of the loop that runs its tasks, beside the function and its arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from cluster.events import Note, no_note
from cluster.guard import Stamp
from configs.cluster import ClusterConfig

Argument = TypeVar("Argument")


@dataclass(frozen=True)
class Bisection(Generic[Argument]):
    """How to find what in a task kills its worker.

    Args:
        pieces: the names of a task's pieces.
        probe: works on these pieces of a task without any effect; runs on a worker.
        without: the task that leaves these pieces out.
    """

    pieces: Callable[[Argument], Sequence[str]]
    probe: Callable[[tuple[Argument, Sequence[str]]], None]
    without: Callable[[Argument, Sequence[str]], Argument]


def _no_stamp() -> Stamp:
    return {}


def _no_room(_: OSError, __: int) -> bool:
    return False


@dataclass(frozen=True)
class Rules(Generic[Argument]):
    """Everything that is not the same for all jobs.

    Args:
        config: limits of time, and what the stage's tasks ask of a worker.
        resources: Dask resources that every task asks for, as {"GPU": 1}.
        stamp: must give the same on a worker as here, or the worker is refused.
        note: is told what happens.
        make_room: called when a disk is full, with the error and how many tasks run at once;
            blocks until there is room for so many, or says False.
        bisection: how to find what kills workers; None: such a task fails.
        home: the cluster's directory, where its state is written when it stands still.
    """

    config: ClusterConfig = field(default_factory=ClusterConfig)
    resources: Mapping[str, float] = field(default_factory=dict)
    stamp: Callable[[], Stamp] = _no_stamp
    note: Note = no_note
    make_room: Callable[[OSError, int], bool] = _no_room
    bisection: Bisection[Argument] | None = None
    home: Path = Path()
