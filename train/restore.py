"""Trained models back from disk, and their logits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file as load_tensors
from torch import nn

from configs.schema import BagModel, Config
from shards.seal import check_bytes
from train.bag import bag_logits
from train.data import Rows, TokenData
from train.jobs import WEIGHTS_NAME, Job
from train.loop import choose_device
from train.predict import logits_of
from train.trainers import build


def load_model(job: Job, data: TokenData, device: torch.device) -> nn.Module:
    """The committed neural model of a job, in evaluation mode."""
    model = build(job, data)
    model.load_state_dict(load_tensors(job.directory / WEIGHTS_NAME))
    return model.to(device).eval()


def model_logits(config: Config, job: Job, data: TokenData, rows: Rows) -> npt.NDArray[np.float32]:
    """Logits [N, C] float32 of a committed model, bag or neural, for some rows."""
    record = job.record()
    assert record is not None, "only committed models are scored"
    for file in record.files:
        check_bytes(job.layout.root, file)
    if isinstance(job.config, BagModel):
        return bag_logits(load_arrays(job.directory / WEIGHTS_NAME), data, rows)
    device = choose_device(config.train.device)
    return logits_of(load_model(job, data, device), data, rows, config.train.forward_size, device)
