"""The processes that train together: how they start, agree, and share one model.

`torchrun` (or whatever sets RANK, WORLD_SIZE and LOCAL_RANK) starts one for each GPU. Each computes
its part of every step; what is written, rank 0 writes. DDP and FSDP2 average gradients over ranks,
so that a loss that is divided by the clips of the global batch counts `num_ranks` times.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from configs.console import counted, say
from configs.errors import InputError, TrainingFailed
from configs.schema import TrainConfig
from shards.stream.schedule import World
from shards.stream.threads import Threads
from train.device import choose_device
from train.world import number_on_host

Array = TypeVar("Array", bound=npt.NDArray[np.generic])
Item = TypeVar("Item")
Parallel = Literal["ddp", "fsdp"]

FIRST_NOTE_S = 5.0
OF_A_LOST_RANK = ("gloo", "nccl", "connection")  # words of what is raised beside it


@dataclass(frozen=True)
class Ranks:
    """All processes of a training, seen by one of them; by itself it is rank 0 of 1."""

    device: torch.device
    world: World = field(default_factory=World)

    @property
    def is_first(self) -> bool:
        return self.world.rank == 0

    @property
    def count(self) -> int:
        return self.world.num_ranks

    def total(self, *numbers: float) -> list[float]:
        """Sums over all ranks, in float64."""
        if self.count == 1:
            return [float(number) for number in numbers]
        sums = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        distributed.all_reduce(sums)
        return sums.tolist()

    def any(self, here: bool) -> bool:
        """Whether it is so on some rank."""
        return self.total(here)[0] > 0

    def concatenated(self, array: Array) -> Array:
        """The arrays of all ranks, [n, ...] each, one after another: on every rank."""
        if self.count == 1:
            return array
        counts = [0] * self.count
        counts[self.world.rank] = len(array)
        sizes = [int(size) for size in self.total(*counts)]
        padded = np.zeros((max(sizes), *array.shape[1:]), dtype=array.dtype)
        padded[: len(array)] = array
        here = torch.from_numpy(padded).to(self.device)
        found = [torch.empty_like(here) for _ in sizes]
        distributed.all_gather(found, here)
        parts = [part.cpu().numpy()[:size] for part, size in zip(found, sizes, strict=True)]
        return np.concatenate(parts)  # type: ignore[return-value]

    def told(self, text: str) -> str:
        """What rank 0 says."""
        data = np.frombuffer(text.encode() if self.is_first else b"", dtype=np.uint8)
        return self.concatenated(data).tobytes().decode()

    def in_step(self, items: Iterator[Item], count: int) -> Iterator[Item]:
        """`count` items on every rank, or fewer: all end where one of them has no more."""
        for _ in range(count):
            item = next(items, None)
            if self.any(item is None) or item is None:
                return
            yield item

    def spread(self, model: nn.Module, how: Parallel) -> nn.Module:
        """A model on this rank's device whose gradients are averaged over ranks, each with a copy
        (DDP), or with a shard of every layer (FSDP2)."""
        model = model.to(self.device)
        if self.count == 1:
            return model
        if how == "ddp":
            return DistributedDataParallel(model, broadcast_buffers=False)  # batches are there
        mesh = init_device_mesh(self.device.type, (self.count,))
        for module in model.modules():
            for layer in module if isinstance(module, nn.ModuleList) else ():
                if any(True for _ in layer.parameters()):
                    fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return model


def bare(model: nn.Module) -> nn.Module:
    """The module whose parameters have their own names."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def averaging(model: nn.Module, now: bool) -> AbstractContextManager[None]:
    """Whether a backward pass averages what has come together over ranks."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(now)
    elif isinstance(model, DistributedDataParallel) and not now:
        without: AbstractContextManager[None] = model.no_sync()
        return without
    return nullcontext()


def drop_gathered(model: nn.Module) -> None:
    """Let shards that were changed count: FSDP2 keeps some layers whole after a forward pass, and
    would use those in the next one."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of which ranks hold shards, on every rank."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@contextmanager
def joined(world: World, config: TrainConfig) -> Iterator[Ranks]:
    """The ranks of a command, once all of them are here; they meet only once in a process.

    Raises InputError where they do not meet, and TrainingFailed where one is lost on the way.
    """
    number = number_on_host(os.environ, world, torch.cuda.device_count())
    ranks = Ranks(choose_device(config.device, number), world)
    if world.num_ranks == 1:
        yield ranks
        return
    try:
        _meet(ranks)
        yield ranks
        ranks.total()  # nobody leaves before the others are done
    except (RuntimeError, distributed.DistError) as error:
        if not any(word in str(error).lower() for word in OF_A_LOST_RANK):
            raise
        raise TrainingFailed(
            f"rank {world.rank} of {world.num_ranks} has lost another one ({_first_line(error)}); "
            "run the same command again: it goes on from the newest checkpoint"
        ) from None
    finally:
        gc.collect()  # shards hold their group, which must not outlive its threads
        if distributed.is_initialized():
            distributed.destroy_process_group()


def _meet(ranks: Ranks) -> None:
    """Raises InputError where ranks do not find each other.

    They meet in a thread: the call itself hears no signal while it waits for the others, which may
    have been refused, and gone.
    """
    threads, limit_s = Threads(1), FIRST_NOTE_S
    future = threads.submit(lambda: _meet_here(ranks))
    while not wait([future], limit_s).done:
        if ranks.is_first:
            where = ":".join(os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
            say(f"rank 0 waits for {counted(ranks.count - 1, 'other rank')} at {where}")
        limit_s *= 2
    threads.end()
    try:
        future.result()
    except (RuntimeError, ValueError) as error:
        raise InputError(f"the {ranks.count} ranks did not meet: {_first_line(error)}") from None
    _use_gpu(ranks)


def _meet_here(ranks: Ranks) -> None:
    _use_gpu(ranks)
    distributed.init_process_group("nccl" if ranks.device.type == "cuda" else "gloo")
    ranks.total(1.0)  # NCCL looks at the first sum only


def _use_gpu(ranks: Ranks) -> None:
    """In this thread."""
    if ranks.device.type == "cuda":
        torch.cuda.set_device(ranks.device)


def refuse_other_configs(ranks: Ranks, fingerprint: str) -> None:
    """Raises InputError on every rank where one trains under another recipe than rank 0."""
    stamps = ranks.concatenated(np.array([int(fingerprint[:12], 16)]))
    if others := np.flatnonzero(stamps != stamps[0]).tolist():
        raise InputError(f"rank {others[0]} was started with another config, or run, than rank 0")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
