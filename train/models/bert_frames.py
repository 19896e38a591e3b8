"""BERT from scratch over frames: each is mapped to the encoder's width, as a token's embedding is.

Source: audio-tokens, which planned it to see what tokens lose. Parameters: those of BERT without
its table of tokens, and (N + 2) D. Legend: B clips, T frames, N numbers in each, D dimensions.
"""

from __future__ import annotations

import torch
from torch import nn

from configs.models import BertFramesModel
from train.models.bert import Bert


class BertOnFrames(Bert):
    """Over vectors, float32 [B, T, N]."""

    def __init__(
        self, config: BertFramesModel, num_numbers: int, num_classes: int, longest: int
    ) -> None:
        super().__init__(config, 1, 0, num_classes, longest)
        nobody_looks_up = nn.Identity()
        self.encoder.set_input_embeddings(nobody_looks_up)  # type: ignore[no-untyped-call]
        std = self.encoder.config.initializer_range
        self.to_width = nn.Linear(num_numbers, config.width)
        self.cls_D = nn.Parameter(torch.randn(config.width) * std)

    def embedded(self, inputs_BTN: torch.Tensor) -> torch.Tensor:
        vectors_BTD: torch.Tensor = self.to_width(inputs_BTN)
        return vectors_BTD

    def cls(self) -> torch.Tensor:
        return self.cls_D


def build_bert_frames(
    config: BertFramesModel, num_numbers: int, num_classes: int, longest: int
) -> nn.Module:
    return BertOnFrames(config, num_numbers, num_classes, longest)
