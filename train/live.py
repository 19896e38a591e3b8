"""What a training says of itself while it runs, and where its gradient flows."""

from __future__ import annotations

import time

import torch
from torch import nn

from shards.events import peak_mib
from shards.stream.stream import Step
from train.data import Batch
from train.ranks import Ranks, bare, whole


class Live:
    """The note behind the live line's count, rate and time left: loss, places of clips a second
    (tokens, or frames), how much of the time the loader was waited for, and the most memory.

    The rate counts what all ranks do, as far as this one sees; a place is a clip's own, no padding.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._began_s = time.monotonic()
        self._places, self._waited_s = 0, 0.0

    def note(self, step: Step[Batch], log: dict[str, float]) -> str:
        """After a step."""
        own = sum(int(batch.lengths_B[batch.weights_B > 0].sum()) for batch in step.batches)
        self._places += own * self._ranks.count
        self._waited_s += log["waited_s"]
        seconds = max(time.monotonic() - self._began_s, 1e-9)
        parts = [
            f"loss {log['loss']:.4f}",
            f"{self._places / seconds:,.0f} places/s",
            f"loader {self._waited_s / seconds:.1%}",
            f"{self._peak_gib():.1f} GiB",
        ]
        return ", ".join(parts)

    def _peak_gib(self) -> float:
        if self._ranks.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._ranks.device) / 2**30
        return peak_mib() / 2**10


def gradient_flow(model: nn.Module) -> dict[str, list[float]]:
    """Of every parameter's gradient, the mean and the largest size of a number: what vanishes or
    explodes on its way to the first layers shows here."""
    sizes = {
        name: whole(parameter.grad).abs()
        for name, parameter in bare(model).named_parameters()
        if parameter.grad is not None
    }
    return {name: [float(size.mean()), float(size.max())] for name, size in sizes.items()}
