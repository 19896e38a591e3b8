"""Token embedding and a bidirectional LSTM; its last states, or a mean of all, are classified.

Source: audio-tokens' LSTM (embedding 256, hidden 512, one layer: 3.84 M parameters at k = 500 and
543 classes), over each clip's true length. Results equal torch's LSTM over packed sequences,
which a test compares with and which is 10 times slower on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from configs.models import LstmModel
from train.models.classifier import Classifier
from train.models.embedding import TokenEmbedding, Vocabulary
from train.models.pooling import AttentionPooling, masked_mean, real_tokens


class BidirectionalLstm(nn.Module):
    """Legend: B clips, T tokens, D dimensions, H hidden.

    Forward states never see the padding that follows a clip; the backward direction reads each
    clip reversed within its own length, padding last again.
    """

    def __init__(self, width: int, hidden: int, layers: int) -> None:
        super().__init__()
        widths = [width] + [2 * hidden] * (layers - 1)
        self.forwards = nn.ModuleList(nn.LSTM(w, hidden, batch_first=True) for w in widths)
        self.backwards = nn.ModuleList(nn.LSTM(w, hidden, batch_first=True) for w in widths)

    def forward(self, inputs_BTD: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        """States of both directions at every token, [B, T, 2 H]."""
        mirror_BT = mirrored(lengths_B, inputs_BTD.shape[1])
        states_BTD = inputs_BTD
        # Not every CPU knows an LSTM in bfloat16. And oneDNN's backward pass of one, in torch 2.11,
        # tears the heap after some steps (seen with AVX-512); torch's own takes twice as long.
        with torch.autocast("cpu", enabled=False), _without_onednn():
            for ahead, back in zip(self.forwards, self.backwards, strict=True):
                right_BTH, _ = ahead(states_BTD)
                left_BTH, _ = back(_pick(states_BTD, mirror_BT))
                states_BTD = torch.cat([right_BTH, _pick(left_BTH, mirror_BT)], dim=2)
        return states_BTD


@contextmanager
def _without_onednn() -> Iterator[None]:
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]  # a property of the module
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before


def last_states(states_BTD: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
    """Where each direction has read the whole clip: forward at its end, backward at its start."""
    hidden = states_BTD.shape[2] // 2
    clips_B = torch.arange(len(lengths_B), device=lengths_B.device)
    forward_BH = states_BTD[clips_B, lengths_B - 1, :hidden]
    return torch.cat([forward_BH, states_BTD[:, 0, hidden:]], dim=1)


def mirrored(lengths_B: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """Positions [B, T] that read each clip backwards and leave its padding where it is."""
    position_1T = torch.arange(num_tokens, device=lengths_B.device)[None]
    mirror_BT = lengths_B[:, None] - 1 - position_1T
    return torch.where(mirror_BT >= 0, mirror_BT, position_1T)


def _pick(values_BTD: torch.Tensor, positions_BT: torch.Tensor) -> torch.Tensor:
    return values_BTD.gather(1, positions_BT[..., None].expand_as(values_BTD))


class LstmClassifier(Classifier):
    """Legend: B clips, T tokens, Q codebooks, D = 2 H dimensions of both directions, C classes."""

    def __init__(self, config: LstmModel, vocabulary: Vocabulary, num_classes: int) -> None:
        super().__init__()
        self.pooling = config.pooling
        self.embedding = TokenEmbedding(vocabulary, config.width, config.embedding)
        self.lstm = BidirectionalLstm(config.width, config.hidden, config.layers)
        self.attention = (
            AttentionPooling(2 * config.hidden) if config.pooling == "attention" else None
        )
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(2 * config.hidden, num_classes)
        self.add_bag(config, vocabulary, num_classes)

    def embedded(self, tokens_BTQ: torch.Tensor) -> torch.Tensor:
        embedded_BTD: torch.Tensor = self.embedding(tokens_BTQ)
        return embedded_BTD

    def classified(self, embedded_BTD: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        lengths_B = lengths_B.to(embedded_BTD.device)  # they index what the LSTM gave
        states_BTD = self.lstm(embedded_BTD, lengths_B)
        mask_BT = real_tokens(lengths_B, states_BTD)
        if self.pooling == "last":
            pooled_BD = last_states(states_BTD, lengths_B)
        elif self.attention is not None:
            pooled_BD = self.attention(states_BTD, mask_BT)
        else:
            pooled_BD = masked_mean(states_BTD, mask_BT)
        logits_BC: torch.Tensor = self.head(self.dropout(torch.relu(pooled_BD)))
        return logits_BC


def build_lstm(
    config: LstmModel, vocabulary: Vocabulary, num_classes: int, _longest: int
) -> nn.Module:
    return LstmClassifier(config, vocabulary, num_classes)
