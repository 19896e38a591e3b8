"""AdamW with decay groups, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math

import torch
from torch import nn

from configs.schema import TrainConfig

BETAS = (0.9, 0.98)


def build_optimizer(model: nn.Module, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW; weight matrices decay, biases, norms and embeddings do not."""
    embeddings = {
        id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)
    }
    decay: list[nn.Parameter] = []
    keep: list[nn.Parameter] = []
    for parameter in model.parameters():
        is_matrix = parameter.ndim >= 2 and id(parameter) not in embeddings
        (decay if is_matrix else keep).append(parameter)
    groups = [
        {"params": decay, "weight_decay": weight_decay},
        {"params": keep, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=BETAS, fused=True)


def learning_rate(step: int, num_steps: int, config: TrainConfig) -> float:
    """The rate of step 0, 1 ... : linear warm-up to `config.lr`, then constant, or half a cosine
    to 0."""
    warmup_steps = config.warmup_share * num_steps
    if step < warmup_steps:
        return config.lr * (step + 1) / (warmup_steps + 1)
    if config.schedule == "constant":
        return config.lr
    progress = (step - warmup_steps) / max(1.0, num_steps - warmup_steps)
    return config.lr * 0.5 * (1.0 + math.cos(math.pi * progress))
