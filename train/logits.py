"""Logits of clips: by the model in training, and by committed models back from disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file as load_tensors
from torch import nn

from configs.models import BagModel
from configs.schema import Config
from shards.seal import check_bytes
from train.bag import bag_logits
from train.batches import Batch, Rows
from train.data import TokenData
from train.device import choose_device, threads_for
from train.jobs import WEIGHTS_NAME, Job
from train.models import build

LogitsNC = npt.NDArray[np.float32]
See = Callable[[npt.NDArray[np.float32]], None]  # vectors [B, D]
Forward = Callable[[nn.Module, torch.Tensor, torch.Tensor], LogitsNC]


def model_logits(
    config: Config, job: Job, data: TokenData, rows: Rows, see: See | None = None
) -> LogitsNC:
    """Logits [N, C] of some rows by a committed model, bag or neural; `see` is called with what the
    last layer of a neural one reads of each batch. Raises IntegrityError where its files changed.
    """
    record = job.record()
    assert record is not None, "only committed models are scored"
    for file in record.files:
        check_bytes(job.layout.root, file)
    weights = job.directory / WEIGHTS_NAME
    if isinstance(job.model, BagModel):
        return bag_logits(load_arrays(weights), data, rows)
    device = choose_device(config.train.device)
    untrained = build(job.model, data.seen, len(data.classes), data.longest)
    model = trained(untrained, weights, device)
    if see is not None:
        head = model.get_submodule("head")
        head.register_forward_pre_hook(lambda _, read: see(read[0].float().cpu().numpy()))
    return logits_of(model, data, rows, config.train.forward_size, device)


def trained(model: nn.Module, weights: Path, device: torch.device) -> nn.Module:
    """A model with its committed weights, to score with."""
    model.load_state_dict(load_tensors(weights))
    return model.to(device).eval()


def logits_of(
    model: nn.Module, data: TokenData, rows: Rows, at_once: int, device: torch.device
) -> LogitsNC:
    """Logits [N, C] in fp32 of some rows, in row order, `at_once` clips at a time; leaves the
    model in the mode that it was in."""
    parts = [*batch_logits(model, data.batches(rows, at_once), device, forward=scored)]
    return np.concatenate(parts) if parts else np.empty((0, len(data.classes)), np.float32)


def batch_logits(
    model: nn.Module,
    batches: Iterable[Batch],
    device: torch.device,
    precision: AbstractContextManager[object] | None = None,
    forward: Forward | None = None,
) -> Iterator[LogitsNC]:
    """The same batch by batch: [B, C] each; computed in fp32 unless `precision` says otherwise."""
    forward = forward or logits_of_inputs
    was_training, precision = model.training, precision or nullcontext()
    for part in batches:
        batch = part.to(device)
        model.eval()
        with precision:
            logits_BC = forward(model, batch.inputs_BTN, batch.lengths_B)
        model.train(was_training)
        yield logits_BC


def scored(model: nn.Module, inputs_BTN: torch.Tensor, lengths_B: torch.Tensor) -> LogitsNC:
    """Those [B, C] of evaluation and of predictions: on as many threads, and so with the same
    bits."""
    with threads_for(model, inputs_BTN):
        return logits_of_inputs(model, inputs_BTN, lengths_B)


@torch.no_grad()
def logits_of_inputs(
    model: nn.Module, inputs_BTN: torch.Tensor, lengths_B: torch.Tensor
) -> LogitsNC:
    """Those [B, C] of clips that are padded to one length, by a model that is no longer trained."""
    logits_BC: LogitsNC = model(inputs_BTN, lengths_B).float().cpu().numpy()
    return logits_BC
