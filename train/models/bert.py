"""BERT from scratch over tokens, with ids of its own: PAD = k, CLS = k + 1, MASK = k + 2.

Source: transformers' BertModel; 12 layers of width 768 with k = 1,024 and 1,024 positions have
86.6 M parameters. Attention takes no mask where every clip of a batch has the same length, so
that the fast kernels apply. The tokens of further codebooks are added to the embedding of the
first one's.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from configs.errors import ConfigError
from configs.schema import BertModel as BertSection
from train.models.embedding import MappedCentroids, TokenEmbedding, Vocabulary
from train.models.pooling import AttentionPooling, masked_mean, real_tokens

FEED_FORWARD = 4  # times the width
NUM_SPECIAL = 3  # PAD, CLS, MASK


class BertClassifier(nn.Module):
    """Legend: B clips, T tokens, Q codebooks, S = T + 1 positions, D dimensions, C classes."""

    def __init__(self, config: BertSection, vocabulary: Vocabulary, num_classes: int) -> None:
        from transformers import BertConfig, BertModel  # seconds that other models need not wait

        super().__init__()
        k = vocabulary.size
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
        others = replace(vocabulary, num_codebooks=vocabulary.num_codebooks - 1)
        std = self.encoder.config.initializer_range
        self.others = (
            TokenEmbedding(others, config.width, std=std) if others.num_codebooks else None
        )
        self.mapped = None
        if config.embedding == "centroids":
            self.mapped = MappedCentroids(vocabulary, config.width, std)
            self._start_at_zero(k)
        self.attention = AttentionPooling(config.width) if config.pooling == "attention" else None
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.width, num_classes)

    def forward(self, tokens_BTQ: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        embedded_BSD = self._embedded(tokens_BTQ)
        mask_BS = real_tokens(lengths_B + 1, embedded_BSD.shape[1])
        is_full = bool((lengths_B == tokens_BTQ.shape[1]).all())
        states_BSD = self.encoder(
            inputs_embeds=embedded_BSD, attention_mask=None if is_full else mask_BS.long()
        ).last_hidden_state
        if self.pooling == "cls":
            pooled_BD = states_BSD[:, 0]
        elif self.attention is not None:
            pooled_BD = self.attention(states_BSD[:, 1:], mask_BS[:, 1:])
        else:
            pooled_BD = masked_mean(states_BSD[:, 1:], mask_BS[:, 1:])
        logits_BC: torch.Tensor = self.head(self.dropout(pooled_BD))
        return logits_BC

    def _embedded(self, tokens_BTQ: torch.Tensor) -> torch.Tensor:
        """CLS and the tokens, before BERT adds their positions."""
        cls_B1 = tokens_BTQ.new_full((len(tokens_BTQ), 1), self.cls_id)
        ids_BS = torch.cat([cls_B1, tokens_BTQ[:, :, 0]], dim=1)
        embedded_BSD: torch.Tensor = self.encoder.embeddings.word_embeddings(ids_BS)
        for module, first in ((self.others, 1), (self.mapped, 0)):
            if module is not None:
                after_cls_BTD = module(tokens_BTQ[:, :, first:])
                embedded_BSD = embedded_BSD + nn.functional.pad(after_cls_BTD, (0, 0, 1, 0))
        return embedded_BSD

    @torch.no_grad()
    def _start_at_zero(self, k: int) -> None:
        """Whatever is learnt of a token beside what it stands for."""
        self.encoder.embeddings.word_embeddings.weight[:k] = 0
        if self.others is not None:
            for weight in self.others.parameters():
                weight.zero_()


def build_bert(
    config: BertSection, vocabulary: Vocabulary, num_classes: int, longest: int
) -> nn.Module:
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
    return BertClassifier(config, vocabulary, num_classes)
