"""What a training says of itself while it runs, and where its gradient flows."""

from __future__ import annotations

import re
import time

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from shards.events import peak_mib
from shards.stream.stream import Step
from train.batches import Batch
from train.ranks import Ranks, bare, whole

# Dense bfloat16 matrix products a second, in 10^12, as NVIDIA's data sheets say.
PEAK_TFLOPS = {
    "B200": 2250.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "RTX 4090": 165.0,
    "A10": 125.0,
    "L4": 121.0,
}
FORWARD_AND_BACKWARD = 3  # times the operations of a forward pass


class Live:
    """The note behind the live line's count, rate and time left: loss, places of clips a second
    (tokens, or frames), how much of the time the loader was waited for, the most memory and, on a
    GPU whose peak is known, the model's share of it (MFU): operations of matrix products, padding
    included, counted once in a forward pass.

    The rate counts what all ranks do, as far as this one sees; a place is a clip's own, no padding.
    """

    def __init__(self, ranks: Ranks, model: nn.Module) -> None:
        self._ranks, self._model = ranks, model
        self._peak = peak_of(ranks.device)
        self._began_s = time.monotonic()
        self._places, self._padded, self._waited_s = 0, 0, 0.0
        self._flops_a_place: float | None = None

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
            *self._mfu(step, seconds),
        ]
        return ", ".join(parts)

    def _mfu(self, step: Step[Batch], seconds: float) -> list[str]:
        if self._peak is None:
            return []
        if self._flops_a_place is None:
            self._flops_a_place = flops_a_place(self._model, step.batches[0].to(self._ranks.device))
        self._padded += sum(batch.inputs_BTN[:, :, 0].numel() for batch in step.batches)
        name, tflops = self._peak
        share = self._padded * self._flops_a_place / seconds / (tflops * 1e12)
        return [f"MFU {share:.1%} of {tflops:g} TFLOP/s ({name}, bf16)"]

    def _peak_gib(self) -> float:
        if self._ranks.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._ranks.device) / 2**30
        return peak_mib() / 2**10


def peak_of(device: torch.device) -> tuple[str, float] | None:
    """A GPU's name and its peak in TFLOP/s, where that is known."""
    if device.type != "cuda":
        return None
    found = torch.cuda.get_device_name(device)
    return next(
        (known for known in PEAK_TFLOPS.items() if re.search(rf"\b{known[0]}\b", found)), None
    )


def flops_a_place(model: nn.Module, batch: Batch) -> float:
    """Operations of a forward and a backward pass for each of the B T places of a batch; leaves the
    model in the mode that it was in."""
    was_training = model.training
    model.eval()
    as_written = torch.compiler.set_stance("force_eager")
    with torch.no_grad(), as_written, FlopCounterMode(display=False) as counter:
        model(batch.inputs_BTN, batch.lengths_B)
    model.train(was_training)
    total = float(counter.get_total_flops())
    return FORWARD_AND_BACKWARD * total / batch.inputs_BTN[:, :, 0].numel()


def gradient_flow(model: nn.Module) -> dict[str, list[float]]:
    """Of every parameter's gradient, the mean and the largest size of a number: what vanishes or
    explodes on its way to the first layers shows here."""
    sizes = {
        name: whole(parameter.grad).abs()
        for name, parameter in bare(model).named_parameters()
        if parameter.grad is not None
    }
    return {name: [float(size.mean()), float(size.max())] for name, size in sizes.items()}
