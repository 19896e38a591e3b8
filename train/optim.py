"""AdamW with decay groups, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math

import torch
from torch import nn

from configs.schema import TrainConfig

BETAS = (0.9, 0.98)
MAPS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.LSTM)
ONE_CYCLE_START, ONE_CYCLE_END = 25.0, 1e4  # torch's: what rates are divided by


def build_optimizer(model: nn.Module, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW; the matrices of maps decay. Biases, norms and embeddings, be they tables or
    parameters of a model by themselves, do not."""
    matrices = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, MAPS)
        for parameter in module.parameters(recurse=False)
        if parameter.ndim >= 2
    }
    decay: list[nn.Parameter] = []
    keep: list[nn.Parameter] = []
    for parameter in model.parameters():
        (decay if id(parameter) in matrices else keep).append(parameter)
    groups = [
        {"params": decay, "weight_decay": weight_decay},
        {"params": keep, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=BETAS, fused=True)


def learning_rate(step: int, num_steps: int, config: TrainConfig, num_reductions: int = 0) -> float:
    """The rate of step 0, 1 ... : linear warm-up to `config.lr`, then constant, half a cosine to 0,
    or lower by `plateau_factor` for each reduction; or one cycle."""
    if config.schedule == "one_cycle":
        return _one_cycle(step, num_steps, config)
    warmup_steps = config.warmup_share * num_steps
    if step < warmup_steps:
        return config.lr * (step + 1) / (warmup_steps + 1)
    if config.schedule in ("constant", "plateau"):
        return config.lr * config.plateau_factor**num_reductions
    progress = (step - warmup_steps) / max(1.0, num_steps - warmup_steps)
    return _half_cosine(config.lr, 0.0, progress)


def _one_cycle(step: int, num_steps: int, config: TrainConfig) -> float:
    """Up by half a cosine while `warmup_share` lasts, and down by another to almost nothing, as
    torch's OneCycleLR (Smith and Topin, Super-Convergence, 2019)."""
    start = config.lr / ONE_CYCLE_START
    peak, last = config.warmup_share * num_steps - 1, num_steps - 1
    if step <= peak:
        return _half_cosine(start, config.lr, step / peak if peak > 0 else 1.0)
    progress = (step - peak) / (last - peak) if last > peak else 1.0
    return _half_cosine(config.lr, start / ONE_CYCLE_END, progress)


def _half_cosine(begin: float, end: float, progress: float) -> float:
    return end + (begin - end) * 0.5 * (1.0 + math.cos(math.pi * progress))
