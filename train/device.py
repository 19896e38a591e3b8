"""Where and how torch computes."""

from __future__ import annotations

import torch

from configs.errors import InputError
from configs.schema import TrainConfig


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


def set_up_cpu(config: TrainConfig) -> None:
    """Threads as configured; denormals become zero: the gradients of a fresh LSTM are so small
    that its first epochs would take 10 times as long."""
    torch.set_flush_denormal(True)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
