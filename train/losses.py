"""Losses of every clip: the caller weighs and sums them, and divides by the clips of the whole
batch, so that micro-batches of any sizes add up to the one big batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional


def multilabel(logits_BC: torch.Tensor, targets_BC: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of each clip, mean over classes: [B]."""
    loss_BC = functional.binary_cross_entropy_with_logits(logits_BC, targets_BC, reduction="none")
    return loss_BC.mean(dim=1)


def multiclass(logits_BC: torch.Tensor, targets_BC: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each clip against its one true class: [B]."""
    return functional.cross_entropy(logits_BC, targets_BC.argmax(dim=1), reduction="none")


LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "multilabel": multilabel,
    "multiclass": multiclass,
}
