"""Convolutions that halve the places of a clip before an encoder.

Legend: B clips, T places, D dimensions.
"""

from __future__ import annotations

import torch
from torch import nn

from train.models.pooling import real_tokens


class Strided(nn.Module):
    """log2(stride) convolutions of width 3 and stride 2, each with a GELU; none for stride 1.
    Parameters: 3 D^2 + D each.

    A place past the end of a clip counts as zeros, as those before its beginning do, so that
    padding changes nothing; T places become ceil(T / 2).
    """

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width, width, 3, stride=2, padding=1) for _ in range(stride.bit_length() - 1)
        )

    def forward(
        self, values_BTD: torch.Tensor, lengths_B: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The places that are left, and each clip's length in them."""
        for convolution in self.convolutions:
            mask_BT1 = real_tokens(lengths_B, values_BTD)[:, :, None]
            found_BDT = convolution((values_BTD * mask_BT1).transpose(1, 2))
            values_BTD = nn.functional.gelu(found_BDT).transpose(1, 2)
            lengths_B = (lengths_B + 1) // 2
        return values_BTD, lengths_B
