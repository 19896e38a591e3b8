"""A CNN over frames as a picture: convolutions, maxima, the mean over time, a hidden layer.

Source: audio-tokens' CNN (32 and 64 channels, hidden 256), which flattened the picture, so that it
took clips of one length only; here the mean over time stands in its place. Four layers (16, 32, 64,
128) without a hidden one are the small CNN that quality is compared with: 97,152 parameters of
convolutions. Parameters: 9 A B + B for each convolution from A to B channels; of the head,
F H + H + (H + 1) C, or (F + 1) C, where F = channels x rows that are left of the N.

Legend: B clips, T frames, N numbers in each, F features, C classes.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from configs.errors import ConfigError
from configs.models import CnnModel
from train.models.classifier import Classifier
from train.models.pooling import masked_mean, real_tokens


class CnnClassifier(Classifier):
    """Over vectors, float32 [B, T, N].

    Frames past a clip's end are kept at zero, and time is filled up to what the maxima divide: so
    padding changes no logits.
    """

    def __init__(self, config: CnnModel, num_numbers: int, num_classes: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1)
            for before, after in pairwise((1, *config.channels))
        )
        rows = num_numbers >> len(config.channels)
        features = config.channels[-1] * rows
        self.hidden = nn.Linear(features, config.hidden) if config.hidden else None
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.hidden or features, num_classes)

    def classified(self, inputs_BTN: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        num_halvings = len(self.convolutions)
        missing = -inputs_BTN.shape[1] % (1 << num_halvings)
        picture_BCTN = nn.functional.pad(inputs_BTN, (0, 0, 0, missing))[:, None]
        picture_BCTN = _cleared(picture_BCTN, lengths_B)
        for convolution in self.convolutions:
            found_BCTN = _cleared(nn.functional.relu(convolution(picture_BCTN)), lengths_B)
            picture_BCTN = nn.functional.max_pool2d(found_BCTN, 2)
            lengths_B = (lengths_B + 1) // 2
        values_BTF = picture_BCTN.transpose(1, 2).flatten(2)
        features_BF = masked_mean(values_BTF, real_tokens(lengths_B, values_BTF))
        if self.hidden is not None:
            features_BF = nn.functional.relu(self.hidden(features_BF))
        logits_BC: torch.Tensor = self.head(self.dropout(features_BF))
        return logits_BC


def _cleared(picture_BCTN: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
    own_BT = real_tokens(lengths_B, picture_BCTN[:, 0])
    return picture_BCTN * own_BT[:, None, :, None]


def build_cnn(config: CnnModel, num_numbers: int, num_classes: int, _longest: int) -> nn.Module:
    """Raises ConfigError where the maxima leave nothing of a frame."""
    if num_numbers >> len(config.channels) == 0:
        raise ConfigError(
            "models",
            [
                f"channels: {len(config.channels)} maxima over 2 x 2 leave nothing of vectors of "
                f"{num_numbers}: name fewer"
            ],
        )
    return CnnClassifier(config, num_numbers, num_classes)
