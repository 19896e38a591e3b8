"""Logits of many clips, in fp32 and in row order."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from train.data import Rows, TokenData


@torch.no_grad()
def logits_of(
    model: nn.Module, data: TokenData, rows: Rows, num_clips: int, device: torch.device
) -> npt.NDArray[np.float32]:
    """Logits [N, C] float32 of some rows, `num_clips` at a time; leaves the model as it was."""
    was_training = model.training
    model.eval()
    parts = [
        model(batch.tokens_BT, batch.lengths_B).float().cpu().numpy()
        for batch in (part.to(device) for part in data.batches(rows, num_clips))
    ]
    model.train(was_training)
    return np.concatenate(parts) if parts else np.empty((0, len(data.classes)), np.float32)
