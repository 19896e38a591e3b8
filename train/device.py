"""Where and how torch computes."""

from __future__ import annotations

import torch

from configs.errors import InputError
from configs.schema import TrainConfig


def choose_device(asked: str) -> torch.device:
    """The device to train on; raises InputError for a GPU that is not there."""
    if asked == "cuda" and not torch.cuda.is_available():
        raise InputError("train.device=cuda, but torch sees no GPU; use auto or cpu")
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(asked)


def uses_bf16(config: TrainConfig, device: torch.device) -> bool:
    """Whether forward passes run in bfloat16."""
    return config.precision == "bf16" or (config.precision == "auto" and device.type == "cuda")


def set_up_cpu(config: TrainConfig) -> None:
    """Threads as configured; denormals become zero: the gradients of a fresh LSTM are so small
    that its first epochs would take 10 times as long."""
    torch.set_flush_denormal(True)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
