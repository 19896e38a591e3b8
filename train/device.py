"""Where and how torch computes."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
from torch import nn

from configs.errors import InputError
from configs.schema import TrainConfig

MOST_ON_ONE_THREAD = 10**9  # parameters times places: 0.05 s
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # mallopt(3)


def choose_device(asked: str, number: int = 0) -> torch.device:
    """The device to train on, for process 0, 1 ... of this host; raises InputError for a GPU that
    is not there."""
    has_gpu = torch.cuda.is_available()
    if asked == "cpu" or (asked == "auto" and not has_gpu):
        return torch.device("cpu")
    if not has_gpu:
        raise InputError("train.device=cuda, but torch sees no GPU; use auto or cpu")
    if number >= torch.cuda.device_count():
        raise InputError(
            f"process {number} of this host has no GPU of its own: torch sees "
            f"{torch.cuda.device_count()}; start fewer (torchrun --nproc-per-node) or use cpu"
        )
    return torch.device("cuda", number)


def uses_bf16(config: TrainConfig, device: torch.device) -> bool:
    """Whether forward passes run in bfloat16."""
    return config.precision == "bf16" or (config.precision == "auto" and device.type == "cuda")


def refuse_without_compiler() -> None:
    """Raises InputError where torch.compile would find nothing to build its kernels with."""
    asked = os.environ.get("CXX")
    if not any(shutil.which(name) for name in ([asked] if asked else ("g++", "c++", "clang++"))):
        raise InputError(
            "train.compile needs a C++ compiler, and there is none: install g++, or leave it out"
        )


def autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    """What a forward pass runs in."""
    return torch.autocast(device.type, torch.bfloat16, enabled=uses_bf16(config, device))


def set_up_cpu(config: TrainConfig) -> None:
    """Threads as configured; denormals become zero: the gradients of a fresh LSTM are so small
    that its first epochs would take 10 times as long; freed memory is kept."""
    torch.set_flush_denormal(True)
    _keep_freed_memory()
    if config.threads is not None:
        torch.set_num_threads(config.threads)


@contextmanager
def threads_for(model: nn.Module, inputs_BTN: torch.Tensor) -> Iterator[None]:
    """One thread where there is little to compute: threads that wait for each other at every
    operation of a small model took 15 to 22 times as long where other work had the cores."""
    num_parameters = sum(weight.numel() for weight in model.parameters())
    before = torch.get_num_threads()
    is_little = num_parameters * inputs_BTN.shape[0] * inputs_BTN.shape[1] < MOST_ON_ONE_THREAD
    if is_little:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if is_little:
            torch.set_num_threads(before)


def _keep_freed_memory() -> None:
    """Let glibc keep what a step frees for the next one: to give it back and to fault it in again
    took 4 to 8 % of the steps of a BERT 4 x 256. Elsewhere this does nothing."""
    with suppress(OSError, AttributeError):
        allocator = ctypes.CDLL("libc.so.6")
        allocator.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        allocator.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
