"""Losses of every clip: the caller weighs and sums them, and divides by the clips of the whole
batch, so that micro-batches of any sizes add up to the one big batch.

Targets are shares of each class in [0, 1], so that mixed clips have a loss, too.

Legend: B clips, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from configs.errors import ConfigError
from configs.schema import TrainConfig

SMALLEST = 1e-12  # at 0, a power below 1 has no derivative

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def multilabel(
    logits_BC: torch.Tensor,
    targets_BC: torch.Tensor,
    *,
    smoothing: float = 0.0,
    gamma: float = 0.0,
    pos_weight_C: torch.Tensor | None = None,
) -> torch.Tensor:
    """Binary cross-entropy of each clip, mean over classes: [B].

    `smoothing` moves targets towards 1/2 by that share. `gamma` is that of the focal loss (Lin et
    al., ICCV 2017, eq. 4): a decision counts by (1 - p_t)^gamma, where p_t is the probability that
    the model gives to what is true. `pos_weight_C` is what a clip that has a class counts.
    """
    smoothed_BC = targets_BC * (1 - smoothing) + smoothing / 2
    if pos_weight_C is not None:
        pos_weight_C = pos_weight_C.to(logits_BC.device)
    loss_BC = functional.binary_cross_entropy_with_logits(
        logits_BC, smoothed_BC, reduction="none", pos_weight=pos_weight_C
    )
    if gamma:
        probability_BC = logits_BC.sigmoid()
        wrong_BC = targets_BC * (1 - probability_BC) + (1 - targets_BC) * probability_BC
        loss_BC = loss_BC * wrong_BC.clamp_min(SMALLEST) ** gamma
    return loss_BC.mean(dim=1)


def multiclass(
    logits_BC: torch.Tensor, targets_BC: torch.Tensor, *, smoothing: float = 0.0
) -> torch.Tensor:
    """Cross-entropy of each clip: [B]. `smoothing` gives that share of a target to all classes
    alike (Szegedy et al., CVPR 2016)."""
    return functional.cross_entropy(
        logits_BC, targets_BC, reduction="none", label_smoothing=smoothing
    )


LOSSES: dict[str, Loss] = {"multilabel": multilabel, "multiclass": multiclass}


def build_loss(
    config: TrainConfig, task: str, count_classes: Callable[[], tuple[npt.NDArray[np.int64], int]]
) -> Loss:
    """What a training makes small; `count_classes` gives the clips that have each class, and all.

    Raises ConfigError for settings that are of another task.
    """
    if task == "multiclass":
        _refuse(config, "focal_gamma", "pos_weight_cap")
        return partial(multiclass, smoothing=config.label_smoothing)
    pos_weight_C = None
    if config.pos_weight_cap is not None:
        counts_C, num_clips = count_classes()
        ratio_C = (num_clips - counts_C) / np.maximum(counts_C, 1)
        capped_C = np.clip(ratio_C, 1.0, config.pos_weight_cap)
        pos_weight_C = torch.from_numpy(capped_C.astype(np.float32))
    return partial(
        multilabel,
        smoothing=config.label_smoothing,
        gamma=config.focal_gamma,
        pos_weight_C=pos_weight_C,
    )


def _refuse(config: TrainConfig, *names: str) -> None:
    """Settings that only clips with several labels have."""
    chosen = [name for name in names if getattr(config, name)]
    if chosen:
        raise ConfigError(
            "train", [f"{', '.join(chosen)}: of clips with several labels; here each has one"]
        )
