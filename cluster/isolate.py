"""Find which piece of a task kills its worker: halve, and try each half alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from distributed import KilledWorker

from cluster.engines import Ended, Engine, Stranded
from cluster.guard import WorkerRefused
from cluster.rules import Bisection

SURE_AFTER = 2  # deaths of one piece: a worker may also be killed by something else
LONG_S = 3600.0

Argument = TypeVar("Argument")


def isolate(engine: Engine, name: str, task: Argument, bisection: Bisection[Argument]) -> list[str]:
    """The pieces of `task` that kill the worker which tries them, in order; none where every
    piece alone is survived. Nothing else may run on the engine."""
    suspects: list[Sequence[str]] = [bisection.pieces(task)]
    guilty: list[str] = []
    while suspects:
        pieces = suspects.pop()
        if len(pieces) == 1:
            if all(_kills(engine, name, bisection, task, pieces) for _ in range(SURE_AFTER)):
                guilty += pieces
        elif len(pieces) > 1 and _kills(engine, name, bisection, task, pieces):
            half = len(pieces) // 2
            suspects += [pieces[half:], pieces[:half]]
    return guilty


def _kills(
    engine: Engine,
    name: str,
    bisection: Bisection[Argument],
    task: Argument,
    pieces: Sequence[str],
) -> bool:
    """Whether a worker dies of these pieces; any other error of theirs they have survived."""
    probe: dict[str, Any] = {f"probe-{name}": (task, pieces)}
    while True:
        while not engine.capacity:  # those that are there are refused
            engine.ended(LONG_S)
        engine.start(bisection.probe, probe)
        ended: list[Ended] = []
        while not ended:
            ended = engine.ended(LONG_S)
        error = ended[0].error
        if isinstance(error, WorkerRefused):
            engine.dismiss(error)
        elif not isinstance(error, Stranded):
            return isinstance(error, KilledWorker)
