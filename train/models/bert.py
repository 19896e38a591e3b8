"""BERT from scratch over tokens, with ids of its own: PAD = k, CLS = k + 1, MASK = k + 2.

Source: transformers' BertModel; 12 layers of width 768 with k = 1,024 and 1,024 positions have
86.6 M parameters. Attention takes no mask where every clip of a batch has the same length, so
that the fast kernels apply.
"""

from __future__ import annotations

import torch
from torch import nn

from configs.errors import ConfigError
from configs.schema import BertModel as BertSection
from train.models.pooling import masked_mean, real_tokens

FEED_FORWARD = 4  # times the width
NUM_SPECIAL = 3  # PAD, CLS, MASK


class BertClassifier(nn.Module):
    """Legend: B clips, T tokens, S = T + 1 positions, D dimensions, C classes."""

    def __init__(self, config: BertSection, k: int, num_classes: int) -> None:
        from transformers import BertConfig, BertModel  # seconds that other models need not wait

        super().__init__()
        self.cls_id = k + 1
        self.pooling = config.pooling
        self.encoder = BertModel(
            BertConfig(
                vocab_size=k + NUM_SPECIAL,
                hidden_size=config.width,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                intermediate_size=FEED_FORWARD * config.width,
                max_position_embeddings=config.max_positions,
                hidden_dropout_prob=config.dropout,
                attention_probs_dropout_prob=0.0,  # flash kernels know none, and it costs RNG
                pad_token_id=k,
                type_vocab_size=1,
            ),
            add_pooling_layer=False,
        )
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.width, num_classes)

    def forward(self, tokens_BT: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        cls_B1 = tokens_BT.new_full((len(tokens_BT), 1), self.cls_id)
        ids_BS = torch.cat([cls_B1, tokens_BT], dim=1)
        mask_BS = real_tokens(lengths_B + 1, ids_BS.shape[1])
        is_full = bool((lengths_B == tokens_BT.shape[1]).all())
        states_BSD = self.encoder(
            input_ids=ids_BS, attention_mask=None if is_full else mask_BS.long()
        ).last_hidden_state
        if self.pooling == "cls":
            pooled_BD = states_BSD[:, 0]
        else:
            pooled_BD = masked_mean(states_BSD[:, 1:], mask_BS[:, 1:])
        logits_BC: torch.Tensor = self.head(self.dropout(pooled_BD))
        return logits_BC


def build_bert(config: BertSection, k: int, num_classes: int, longest: int) -> nn.Module:
    """Raises ConfigError where the longest clip and its CLS do not fit: nothing is cut silently."""
    if longest + 1 > config.max_positions:
        raise ConfigError(
            "models",
            [
                f"max_positions={config.max_positions} is too short: the longest clip has "
                f"{longest} tokens and BERT adds CLS; set max_positions={longest + 1} or more, "
                "or a larger frames.hop_length"
            ],
        )
    return BertClassifier(config, k, num_classes)
