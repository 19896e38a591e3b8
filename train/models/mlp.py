"""Three linear layers over all frames of a clip side by side: order plays a part, shifts are lost.

Source: audio-tokens' baseline MLP (512 and 256). Parameters: (T N + 1) 512 + 513 x 256 + 257 C,
most of them in the first layer: 14.4 M for 431 frames of 64 and 527 classes.

Legend: B clips, T frames of the longest clip of all, N numbers in each, C classes.
"""

from __future__ import annotations

import torch
from torch import nn

from configs.models import MlpModel
from train.models.classifier import Classifier
from train.models.pooling import real_tokens


class MlpClassifier(Classifier):
    """Over vectors, float32 [B, any number, N]; a clip that is shorter than the longest is filled
    up with zeros."""

    def __init__(self, config: MlpModel, num_numbers: int, num_classes: int, longest: int) -> None:
        super().__init__()
        self.longest = longest
        first, second = config.hidden
        self.first = nn.Linear(longest * num_numbers, first)
        self.second = nn.Linear(first, second)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(second, num_classes)

    def classified(self, inputs_BTN: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        clean_BTN = inputs_BTN * real_tokens(lengths_B, inputs_BTN)[:, :, None]
        missing = self.longest - inputs_BTN.shape[1]  # below 0: what is cut is padding
        flat_BF = nn.functional.pad(clean_BTN, (0, 0, 0, missing)).flatten(1)
        hidden_BH = nn.functional.relu(self.first(flat_BF))
        hidden_BH = nn.functional.relu(self.second(self.dropout(hidden_BH)))
        logits_BC: torch.Tensor = self.head(self.dropout(hidden_BH))
        return logits_BC


def build_mlp(config: MlpModel, num_numbers: int, num_classes: int, longest: int) -> nn.Module:
    return MlpClassifier(config, num_numbers, num_classes, longest)
