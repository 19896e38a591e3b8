"""What models share in reading padded sequences. Legend: B clips, T tokens, D dimensions."""

from __future__ import annotations

import torch
from torch import nn


def real_tokens(lengths_B: torch.Tensor, values_BTD: torch.Tensor) -> torch.Tensor:
    """Mask [B, T] of bool, where the values are: True on a clip's own places, False on padding."""
    mask_BT = torch.arange(values_BTD.shape[1], device=lengths_B.device) < lengths_B[:, None]
    return mask_BT.to(values_BTD.device)


def masked_mean(values_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """Mean over a clip's own tokens, [B, D]."""
    weights_BT1 = mask_BT[..., None].to(values_BTD.dtype)
    return (values_BTD * weights_BT1).sum(1) / weights_BT1.sum(1)


class AttentionPooling(nn.Module):
    """Mean over a clip's own tokens, weighted by how much each says: softmax of v.tanh(W x + b).

    Source: the additive score of Bahdanau et al. (ICLR 2015) without a query, as Yang et al.
    (Hierarchical Attention Networks, NAACL 2016) pool words. Parameters: D^2 + 2 D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width)
        self.score = nn.Linear(width, 1, bias=False)

    def forward(self, values_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        """[B, D]."""
        scores_BT = self.score(torch.tanh(self.hidden(values_BTD)))[..., 0]
        weights_BT = scores_BT.masked_fill(~mask_BT, -torch.inf).softmax(dim=1)
        return torch.einsum("bt,btd->bd", weights_BT, values_BTD)
