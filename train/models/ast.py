"""The Audio Spectrogram Transformer over Kaldi's filter banks, from scratch or pretrained.

Source: transformers' ASTModel (Gong et al., AST: Audio Spectrogram Transformer, Interspeech 2021).
Patches of 16 x 16, 10 apart; 12 layers of width 768 with 1,024 frames have 86.2 M parameters. A
clip is filled up with zeros before it is normalised, as AST's own feature extractor does, and there
is no mask: every clip has the same patches.

Legend: B clips, T frames, M bins, D dimensions, C classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from configs.errors import ConfigError, InputError
from configs.models import AstModel
from train.models.classifier import Classifier
from train.models.pooling import real_tokens

FEED_FORWARD = 4  # times the width


class AstClassifier(Classifier):
    """Over stored frames, float32 [B, T, M]."""

    def __init__(self, config: AstModel, num_mels: int, num_classes: int) -> None:
        super().__init__()
        self.mean, self.std = config.mean, config.std
        self.encoder = _encoder(config, num_mels)
        shape: Any = self.encoder.config
        if shape.num_mel_bins != num_mels:
            raise ConfigError(
                "models",
                [
                    f"pretrained={config.pretrained} takes {shape.num_mel_bins} bins, and stored "
                    f"frames have {num_mels}: set frames.kind=fbank"
                ],
            )
        self.max_length: int = shape.max_length
        self.norm = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(shape.hidden_size, num_classes)

    def classified(self, inputs_BTM: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        pooled_BD = self.encoder(self.fed(inputs_BTM, lengths_B)).pooler_output
        logits_BC: torch.Tensor = self.head(self.dropout(self.norm(pooled_BD)))
        return logits_BC

    def fed(self, inputs_BTM: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        """What the encoder is given: filled up to its length, and normalised."""
        clean_BTM = inputs_BTM * real_tokens(lengths_B, inputs_BTM)[:, :, None]
        missing = self.max_length - inputs_BTM.shape[1]
        return (nn.functional.pad(clean_BTM, (0, 0, 0, missing)) - self.mean) / (2 * self.std)


def _encoder(config: AstModel, num_mels: int) -> nn.Module:
    from transformers import ASTConfig, ASTModel  # seconds that other models need not wait

    if config.pretrained is not None:
        try:
            found: nn.Module = ASTModel.from_pretrained(config.pretrained)
        except OSError as error:
            reason = str(error).partition("\n")[0]
            raise InputError(f"pretrained={config.pretrained}: no AST there: {reason}") from None
        return found
    shape = ASTConfig(
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=FEED_FORWARD * config.width,
        hidden_dropout_prob=config.dropout,
        num_mel_bins=num_mels,
        max_length=config.max_length,
    )
    made: nn.Module = ASTModel(shape)
    return made


def build_ast(config: AstModel, num_mels: int, num_classes: int, longest: int) -> nn.Module:
    """Raises ConfigError where the longest clip does not fit: nothing is cut silently."""
    model = AstClassifier(config, num_mels, num_classes)
    if longest > model.max_length:
        raise ConfigError(
            "models",
            [
                f"max_length={model.max_length} is too short: the longest clip has {longest} "
                f"frames; set max_length={longest} or more, or source.windows"
            ],
        )
    return model
