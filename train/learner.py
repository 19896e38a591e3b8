"""What a training changes: the weights, the optimizer's state, and a running average of weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from configs.schema import TrainConfig
from train.device import refuse_without_compiler
from train.optim import build_optimizer
from train.ranks import Ranks, bare, drop_gathered, whole

Tensors = dict[str, torch.Tensor]


class Average:
    """An exponential moving average of a model's weights: what is validated, and kept at the end.

    After step t it takes over a share of 1 - min(decay, t / (t + 9)) of the weights, so that it
    does not hang on to where training began (as TensorFlow's ExponentialMovingAverage).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay, self._model, self._weights = decay, model, [*model.parameters()]
        self.tensors = {
            name: parameter.detach().clone() for name, parameter in model.named_parameters()
        }

    @torch.no_grad()
    def update(self, done: int) -> None:
        """Take in the weights after step 1, 2 ..."""
        decay = min(self._decay, done / (done + 9))
        for mean, weight in zip(self.tensors.values(), self._weights, strict=True):
            mean.lerp_(weight, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the average's weights within the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for mean, weight in zip(self.tensors.values(), self._weights, strict=True):
            kept = weight.clone()
            weight.copy_(mean)
            mean.copy_(kept)
        drop_gathered(self._model)


@dataclass(frozen=True)
class Learner:
    """A model as it computes, spread over ranks, and what goes with it."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: Average | None = None

    def update(self, done: int) -> None:
        """Take step 1, 2 ... with the gradient that has come together."""
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update(done)

    def files(self) -> dict[str, Tensors]:
        """All tensors, by the file of a checkpoint that holds them; no name is in two of them."""
        drop_gathered(self.model)  # or FSDP2's root has other parameters than the optimizer's
        named = bare(self.model).named_parameters()
        states = {
            f"{name}/{key}": value.reshape(1) if value.ndim == 0 else value
            for name, parameter in named
            for key, value in self.optimizer.state[parameter].items()
        }
        files = {"model": dict(bare(self.model).state_dict()), "optimizer": states}
        if self.average is not None:
            means = self.average.tensors
            files["average"] = {f"{name}/average": mean for name, mean in means.items()}
        return files

    def allocate(self) -> None:
        """Give the optimizer the state that its first step would, for a checkpoint to fill."""
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                state = self.optimizer.state[parameter]
                state["step"] = torch.zeros((), device=parameter.device)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)

    def result(self, is_wanted: bool) -> Tensors:
        """The weights that a training ends with, whole, on the CPU; every rank has to ask, and gets
        them where they are wanted."""
        result: Tensors = {}
        with self.averaged():
            for name, tensor in bare(self.model).state_dict().items():
                gathered = whole(tensor)
                if is_wanted:
                    result[name] = gathered.cpu().clone()
        return result

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The model has the weights that are to be scored within the block."""
        if self.average is None:
            yield
        else:
            with self.average.in_place():
                yield


def build_learner(config: TrainConfig, model: nn.Module, ranks: Ranks) -> Learner:
    """Everything that trains a model, on its device; raises InputError where it cannot be
    compiled."""
    model = ranks.spread(model, config.parallel).train()
    if config.compile:
        refuse_without_compiler()
        bare(model).compile()
    optimizer = build_optimizer(model, config.lr, config.weight_decay)
    decay = config.average_decay
    average = Average(bare(model), decay) if decay is not None else None
    return Learner(model, optimizer, average)
