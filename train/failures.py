"""What is said where a training cannot go on: what happened, and what to set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from configs.errors import TrainingFailed

SMALLER = "take a smaller model, or train.parallel=fsdp on more GPUs"


@contextmanager
def fitting(message: str) -> Iterator[None]:
    """Raise TrainingFailed with a message where what is done within does not fit into memory."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise TrainingFailed(message) from None


def too_many_clips(title: str, num_clips: int, of_what: str) -> str:
    """Of a forward pass of so many clips, and its backward pass."""
    if num_clips == 1:
        return f"{title}: 1 clip {of_what} does not fit into memory: {SMALLER}"
    return (
        f"{title}: {num_clips} clips {of_what} at once do not fit into memory: set "
        f"train.micro_batch_size={num_clips // 2}, and run the same command again: it goes on, and "
        "as many more are added up to the same batch"
    )


def too_large_state(title: str) -> str:
    """Of what a training holds of a model: its weights, their gradient, the optimizer's state."""
    return (
        f"{title}: the model, its gradient and the optimizer's state do not fit into memory: "
        f"{SMALLER}"
    )


def no_number(title: str, what: str) -> str:
    """Of a loss, or logits, that are infinite or NaN."""
    return (
        f"{title}: {what}; the last checkpoint is kept. Lower train.lr or the model's lr and run "
        "again under another model name"
    )
