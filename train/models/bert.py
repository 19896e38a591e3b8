"""BERT from scratch over tokens, with ids of its own: PAD = k, CLS = k + 1, MASK = k + 2.

Source: transformers' BertModel; 12 layers of width 768 with k = 1,024 and 1,024 positions have
86.6 M parameters. Attention takes no mask where every clip of a batch has the same length, so
that the fast kernels apply. The tokens of further codebooks are added to the embedding of the
first one's.

Legend: B clips, T places, S = T + 1 positions, Q codebooks, D dimensions, C classes.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from configs.errors import ConfigError
from configs.models import BertModel as BertSection
from configs.models import BertShape
from train.models.classifier import Classifier
from train.models.embedding import MappedCentroids, TokenEmbedding, Vocabulary
from train.models.pooling import AttentionPooling, masked_mean, real_tokens
from train.models.strided import Strided

FEED_FORWARD = 4  # times the width
NUM_SPECIAL = 3  # PAD, CLS, MASK


class Bert(Classifier):
    """The encoder, over whatever `embedded` makes of a clip's places, its pooling and its head.

    Raises ConfigError where the longest clip and its CLS do not fit: nothing is cut silently.
    """

    def __init__(
        self, config: BertShape, vocab_size: int, pad_id: int, num_classes: int, longest: int
    ) -> None:
        from transformers import BertConfig, BertModel  # seconds that other models need not wait

        super().__init__()
        _refuse_longer(config, longest)
        self.pooling = config.pooling
        self.encoder = BertModel(
            BertConfig(
                vocab_size=vocab_size,
                hidden_size=config.width,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                intermediate_size=FEED_FORWARD * config.width,
                max_position_embeddings=config.max_positions,
                hidden_dropout_prob=config.dropout,
                attention_probs_dropout_prob=0.0,  # flash kernels know none, and it costs RNG
                pad_token_id=pad_id,
                type_vocab_size=1,
            ),
            add_pooling_layer=False,
        )
        self.strided = Strided(config.width, config.stride)
        self.attention = AttentionPooling(config.width) if config.pooling == "attention" else None
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.width, num_classes)
        # A graph of its own for each answer. (A decorator would load the compiler for all models.)
        self._are_full = torch.compiler.disable(_are_full)

    def cls(self) -> torch.Tensor:
        """What stands before every clip, [D]."""
        raise NotImplementedError

    def classified(self, embedded_BTD: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        embedded_BTD, lengths_B = self.strided(embedded_BTD, lengths_B)
        cls_B1D = self.cls().expand(len(embedded_BTD), 1, -1)
        embedded_BSD = torch.cat([cls_B1D, embedded_BTD], dim=1)
        mask_BS = real_tokens(lengths_B + 1, embedded_BSD)
        is_full = self._are_full(lengths_B, embedded_BTD.shape[1])
        asked_BS = None if is_full else mask_BS.long()
        states_BSD = self.encoder(
            inputs_embeds=embedded_BSD, attention_mask=asked_BS
        ).last_hidden_state
        if self.pooling == "cls":
            pooled_BD = states_BSD[:, 0]
        elif self.attention is not None:
            pooled_BD = self.attention(states_BSD[:, 1:], mask_BS[:, 1:])
        else:
            pooled_BD = masked_mean(states_BSD[:, 1:], mask_BS[:, 1:])
        logits_BC: torch.Tensor = self.head(self.dropout(pooled_BD))
        return logits_BC


def _are_full(lengths_B: torch.Tensor, num_places: int) -> bool:
    return bool((lengths_B == num_places).all())


class BertClassifier(Bert):
    """Over the tokens of Q codebooks, int64 [B, T, Q]."""

    def __init__(
        self, config: BertSection, vocabulary: Vocabulary, num_classes: int, longest: int
    ) -> None:
        k = vocabulary.size
        super().__init__(config, k + NUM_SPECIAL, k, num_classes, longest)
        self.cls_id = k + 1
        others = replace(vocabulary, num_codebooks=vocabulary.num_codebooks - 1)
        std = self.encoder.config.initializer_range
        self.others = (
            TokenEmbedding(others, config.width, std=std) if others.num_codebooks else None
        )
        self.mapped = None
        if config.embedding == "centroids":
            self.mapped = MappedCentroids(vocabulary, config.width, std)
            self._start_at_zero(k)
        self.add_bag(config, vocabulary, num_classes)

    def embedded(self, tokens_BTQ: torch.Tensor) -> torch.Tensor:
        embedded_BTD: torch.Tensor = self._table(tokens_BTQ[:, :, 0])
        if self.others is not None:
            embedded_BTD = embedded_BTD + self.others(tokens_BTQ[:, :, 1:])
        if self.mapped is not None:
            embedded_BTD = embedded_BTD + self.mapped(tokens_BTQ)
        return embedded_BTD

    def cls(self) -> torch.Tensor:
        vector_D: torch.Tensor = self._table(
            torch.tensor(self.cls_id, device=self._table.weight.device)
        )
        return vector_D

    @property
    def _table(self) -> nn.Embedding:
        table: nn.Embedding = self.encoder.embeddings.word_embeddings
        return table

    @torch.no_grad()
    def _start_at_zero(self, k: int) -> None:
        """Whatever is learnt of a token beside what it stands for."""
        self._table.weight[:k] = 0
        if self.others is not None:
            for weight in self.others.parameters():
                weight.zero_()


def _refuse_longer(config: BertShape, longest: int) -> None:
    needed = -(-longest // config.stride) + 1
    if needed > config.max_positions:
        raise ConfigError(
            "models",
            [
                f"max_positions={config.max_positions} is too short: the longest clip has "
                f"{longest} places, which take {needed - 1} at stride {config.stride}, and BERT "
                f"adds CLS; set max_positions={needed} or more, a stride, or a larger "
                "frames.hop_length"
            ],
        )


def build_bert(
    config: BertSection, vocabulary: Vocabulary, num_classes: int, longest: int
) -> nn.Module:
    return BertClassifier(config, vocabulary, num_classes, longest)
