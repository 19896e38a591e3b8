"""Which of the processes of a training this is, and where they meet: seen without torch."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from configs.errors import InputError
from shards.stream.schedule import World


def world_of(environment: Mapping[str, str]) -> World:
    """As `torchrun` says by RANK and WORLD_SIZE; raises InputError where they make no sense."""
    size = environment.get("WORLD_SIZE", "") or "1"
    if size == "1":
        return World()
    try:
        return World(int(environment["RANK"]), int(size))
    except (KeyError, ValueError):
        raise InputError(
            f"WORLD_SIZE={size}, and RANK={environment.get('RANK', 'unset')} is none of 0, 1 ... "
            "below it: start with torchrun, or unset both"
        ) from None


def number_on_host(environment: Mapping[str, str], world: World, num_gpus: int) -> int:
    """Which of its host's GPUs this process is to use: LOCAL_RANK, as `torchrun` says, or else
    Slurm's number of the task, or the rank, in turn over the GPUs that it sees.

    Raises InputError where what is said is no number.
    """
    said = environment.get("LOCAL_RANK") or None
    task = environment.get("SLURM_LOCALID") or str(world.rank)
    try:
        return int(said) if said is not None else int(task) % max(1, num_gpus)
    except ValueError:
        raise InputError(
            f"LOCAL_RANK={said or 'unset'}, SLURM_LOCALID={task}: the first of them that is set "
            "has to be the number of this process on its host"
        ) from None


class Meeting(ExitStack):
    """Of all ranks of a command: they meet when the first model is trained, and leave together. A
    second meeting would find the addresses of the first."""

    ranks: Any = None  # train.ranks.Ranks
