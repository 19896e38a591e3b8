"""Losses are torch's own, a clip each, and add up over any cut into micro-batches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from train.losses import LOSSES, multiclass, multilabel


def made(num_clips: int, num_classes: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, the class of each clip, and that class as one-hot targets."""
    random = torch.Generator().manual_seed(num_clips)
    logits_BC = torch.randn(num_clips, num_classes, generator=random)
    classes_B = torch.randint(num_classes, (num_clips,), generator=random)
    return logits_BC, classes_B, functional.one_hot(classes_B, num_classes).float()


def test_multilabel_is_torchs_mean_times_the_clips() -> None:
    logits_BC, _, targets_BC = made(7)
    expected = 7 * functional.binary_cross_entropy_with_logits(logits_BC, targets_BC)
    torch.testing.assert_close(multilabel(logits_BC, targets_BC).sum(), expected)


def test_multiclass_is_torchs_mean_times_the_clips() -> None:
    logits_BC, classes_B, targets_BC = made(7)
    expected = 7 * functional.cross_entropy(logits_BC, classes_B)
    torch.testing.assert_close(multiclass(logits_BC, targets_BC).sum(), expected)


@pytest.mark.parametrize("task", LOSSES)
@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=6))
def test_parts_add_up_to_the_whole(task: str, sizes: list[int]) -> None:
    logits_BC, _, targets_BC = made(sum(sizes))
    parts = zip(logits_BC.split(sizes), targets_BC.split(sizes), strict=True)
    total = sum(LOSSES[task](*part).sum() for part in parts)
    whole = LOSSES[task](logits_BC, targets_BC).sum()
    torch.testing.assert_close(total, whole, rtol=1e-5, atol=1e-5)
