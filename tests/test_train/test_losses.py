"""Losses are torch's own, a clip each, and add up over any cut into micro-batches."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from configs.errors import ConfigError
from configs.schema import TrainConfig
from train.data import TokenData
from train.losses import LOSSES, build_loss, multiclass, multilabel


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


@pytest.mark.parametrize("gamma", [0.3, 1.0, 2.0])
def test_focal_loss_of_what_is_certain_has_a_gradient(gamma: float) -> None:
    logits_BC = torch.tensor([[20.0, -200.0, 200.0, 0.0]], requires_grad=True)
    loss_B = multilabel(logits_BC, torch.tensor([[1.0, 0.0, 1.0, 1.0]]), gamma=gamma)
    loss_B.sum().backward()
    assert logits_BC.grad is not None
    assert logits_BC.grad.isfinite().all()
    assert logits_BC.grad[0, 3] < 0


def test_focal_loss_is_the_papers_formula() -> None:
    """Eq. 4: -(1 - p_t)^gamma log(p_t)."""
    logits_BC, _, targets_BC = made(9)
    p_BC = logits_BC.double().sigmoid()
    p_t_BC = torch.where(targets_BC == 1, p_BC, 1 - p_BC)
    expected_B = (-((1 - p_t_BC) ** 2) * p_t_BC.log()).mean(dim=1)
    torch.testing.assert_close(multilabel(logits_BC, targets_BC, gamma=2.0), expected_B.float())


def test_smoothed_multiclass_is_torchs() -> None:
    logits_BC, classes_B, targets_BC = made(7)
    expected_B = functional.cross_entropy(
        logits_BC, classes_B, reduction="none", label_smoothing=0.1
    )
    torch.testing.assert_close(multiclass(logits_BC, targets_BC, smoothing=0.1), expected_B)


def test_smoothed_multilabel_is_least_where_the_smoothed_target_is() -> None:
    targets_BC = torch.tensor([[1.0, 0.0]])
    logits_BC = torch.tensor([[0.95, 0.05]]).logit().requires_grad_()
    multilabel(logits_BC, targets_BC, smoothing=0.1).sum().backward()
    assert logits_BC.grad is not None
    torch.testing.assert_close(logits_BC.grad, torch.zeros(1, 2), atol=1e-7, rtol=0)


def test_the_weight_of_a_class_is_capped() -> None:
    config = TrainConfig(pos_weight_cap=10)
    counts_C = np.array([50, 10, 1, 0, 90])
    loss = build_loss(config, "multilabel", lambda: (counts_C, 100))
    logits_BC, targets_BC = torch.zeros(1, 5), torch.ones(1, 5)
    weights_C = torch.tensor([1.0, 9.0, 10.0, 10.0, 1.0])
    expected_B = weights_C.mean()[None] * math.log(2)
    torch.testing.assert_close(loss(logits_BC, targets_BC), expected_B)
    torch.testing.assert_close(loss(logits_BC, 0 * targets_BC), torch.tensor([math.log(2)]))


@pytest.mark.parametrize("settings", [{"focal_gamma": 2.0}, {"pos_weight_cap": 5.0}])
def test_settings_of_another_task_are_refused(settings: dict[str, float]) -> None:
    config = TrainConfig.model_validate(settings)
    with pytest.raises(ConfigError, match=f"{next(iter(settings))}: of clips with several labels"):
        build_loss(config, "multiclass", lambda: (np.zeros(3, np.int64), 0))


def test_classes_are_counted_a_clip_at_a_time(make_data: Callable[..., TokenData]) -> None:
    data = make_data([[1], [2], [3], [4]], [[0, 2], [2, 2], [], [3]], (3, 1, 0))
    counts_C, num_clips = data.count_classes(data.rows("train"))
    assert (counts_C.tolist(), num_clips) == ([1, 0, 2, 0], 3)
