"""Token embedding, mean over the clip, one linear layer: order plays no part.

Source: audio-tokens' "simple" model, whose mean took the padding in; this one does not.
Parameters: Q (k + 1) D + (D + 1) C.
"""

from __future__ import annotations

import torch
from torch import nn

from configs.models import LinearModel
from train.models.classifier import Classifier
from train.models.embedding import TokenEmbedding, Vocabulary
from train.models.pooling import masked_mean, real_tokens


class LinearClassifier(Classifier):
    """Legend: B clips, T tokens, Q codebooks, D dimensions, C classes."""

    def __init__(self, config: LinearModel, vocabulary: Vocabulary, num_classes: int) -> None:
        super().__init__()
        self.embedding = TokenEmbedding(vocabulary, config.width, config.embedding)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.width, num_classes)
        self.add_bag(config, vocabulary, num_classes)

    def embedded(self, tokens_BTQ: torch.Tensor) -> torch.Tensor:
        embedded_BTD: torch.Tensor = self.embedding(tokens_BTQ)
        return embedded_BTD

    def classified(self, embedded_BTD: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        pooled_BD = masked_mean(embedded_BTD, real_tokens(lengths_B, embedded_BTD))
        logits_BC: torch.Tensor = self.head(self.dropout(pooled_BD))
        return logits_BC


def build_linear(
    config: LinearModel, vocabulary: Vocabulary, num_classes: int, _longest: int
) -> nn.Module:
    return LinearClassifier(config, vocabulary, num_classes)
