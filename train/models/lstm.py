"""Token embedding and a bidirectional LSTM; the last state of each direction is classified.

Source: audio-tokens' LSTM (embedding 256, hidden 512, one layer: 3.84 M parameters at k = 500 and
543 classes), with sequences packed by their true lengths.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from configs.schema import LstmModel


class LstmClassifier(nn.Module):
    """Legend: B clips, T tokens, D dimensions, H hidden, C classes."""

    def __init__(self, config: LstmModel, k: int, num_classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(k + 1, config.width, padding_idx=k)
        self.lstm = nn.LSTM(
            config.width, config.hidden, config.layers, batch_first=True, bidirectional=True
        )
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(2 * config.hidden, num_classes)

    def forward(self, tokens_BT: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        packed = pack_padded_sequence(
            self.embedding(tokens_BT), lengths_B.cpu(), batch_first=True, enforce_sorted=False
        )
        _, (states_LBH, _) = self.lstm(packed)
        last_B2H = torch.cat([states_LBH[-2], states_LBH[-1]], dim=1)
        logits_BC: torch.Tensor = self.head(self.dropout(torch.relu(last_B2H)))
        return logits_BC


def build_lstm(config: LstmModel, k: int, num_classes: int, _longest: int) -> nn.Module:
    return LstmClassifier(config, k, num_classes)
