"""What models share in reading padded sequences. Legend: B clips, T tokens, D dimensions."""

from __future__ import annotations

import torch


def real_tokens(lengths_B: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """Mask [B, T] of bool: True on a clip's own tokens, False on padding."""
    return torch.arange(num_tokens, device=lengths_B.device) < lengths_B[:, None]


def masked_mean(values_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """Mean over a clip's own tokens, [B, D]."""
    weights_BT1 = mask_BT[..., None].to(values_BTD.dtype)
    return (values_BTD * weights_BT1).sum(1) / weights_BT1.sum(1)
