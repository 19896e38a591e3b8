"""What tokens are to a model: the sum of one vector from each codebook.

Vectors are learnt from nothing, or (`centroids`) are a linear map of the centroid that a token
stands for, and a difference that is learnt and begins at zero: what sounds alike looks alike from
the first step on, and tokens that are seldom heard take part in what the others teach.

Legend: B clips, T tokens, Q codebooks, K centroids in each, V token ids (K, silence, PAD), D
dimensions, N numbers in the vector of a frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

Start = Literal["random", "centroids"]


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The ids that a model meets: `size` tokens of each codebook, silence included, and PAD, which
    is `size`; and the centroids that the first K stand for, which add up to a frame's vector."""

    size: int
    num_codebooks: int = 1
    centroids_QKN: npt.NDArray[np.float32] | None = None


class TokenEmbedding(nn.Module):
    """Vectors [B, T, D] of tokens [B, T, Q], at first with deviation `std`; padding is 0.
    Parameters: Q V D, and N D for the map of centroids."""

    def __init__(
        self, vocabulary: Vocabulary, width: int, start: Start = "random", std: float = 1.0
    ) -> None:
        super().__init__()
        self.tables = nn.ModuleList(
            nn.Embedding(vocabulary.size + 1, width, padding_idx=vocabulary.size)
            for _ in range(vocabulary.num_codebooks)
        )
        with torch.no_grad():
            for weight in self.tables.parameters():
                weight.mul_(std if start == "random" else 0.0)
        self.mapped = MappedCentroids(vocabulary, width, std) if start == "centroids" else None

    def forward(self, tokens_BTQ: torch.Tensor) -> torch.Tensor:
        parts = [
            table(tokens_BT)
            for table, tokens_BT in zip(self.tables, tokens_BTQ.unbind(dim=2), strict=True)
        ]
        if self.mapped is not None:
            parts.append(self.mapped(tokens_BTQ))
        return torch.stack(parts).sum(dim=0) if len(parts) > 1 else parts[0]


class MappedCentroids(nn.Module):
    """A linear map of the centroids that tokens stand for, one for all codebooks; silence and
    padding are 0. Centroids count from their mean, in units of the deviation of their sum."""

    def __init__(self, vocabulary: Vocabulary, width: int, std: float) -> None:
        super().__init__()
        if vocabulary.centroids_QKN is None:
            raise ValueError("embedding=centroids needs a codebook")
        centroids_QKN = torch.from_numpy(vocabulary.centroids_QKN)
        num_codebooks, k, num_numbers = centroids_QKN.shape
        centred_QKN = centroids_QKN - centroids_QKN.mean(dim=1, keepdim=True)
        deviation = centred_QKN.square().mean(dim=1).sum(dim=0).mean().sqrt()
        points_QVN = torch.zeros(num_codebooks, vocabulary.size + 1, num_numbers)
        points_QVN[:, :k] = centred_QKN / deviation.clamp_min(1e-30)
        self.points_QVN: torch.Tensor
        self.register_buffer("points_QVN", points_QVN)
        self.to_width = nn.Linear(num_numbers, width, bias=False)
        nn.init.normal_(self.to_width.weight, std=std / math.sqrt(num_numbers))

    def forward(self, tokens_BTQ: torch.Tensor) -> torch.Tensor:
        vectors_QVD = self.to_width(self.points_QVN)
        parts = [
            nn.functional.embedding(tokens_BT, vectors_VD)
            for tokens_BT, vectors_VD in zip(tokens_BTQ.unbind(dim=2), vectors_QVD, strict=True)
        ]
        return torch.stack(parts).sum(dim=0)
