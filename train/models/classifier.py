"""What all models are: an embedding of a clip's places, a classifier over it, and what a training
may put between and beside them.

Legend: B clips, T places, N numbers at each (Q tokens, or a vector), D dimensions, V tokens of all
codebooks, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from configs.models import TokenModel
from train.models.embedding import Vocabulary
from train.models.pooling import real_tokens

BAG_DROPOUT = 0.3


@dataclass(frozen=True)
class Mix:
    """Each clip of a batch with something of another one: mixup (Zhang et al., ICLR 2018), of
    embeddings, since tokens cannot be mixed (as Verma et al., Manifold Mixup, ICML 2019)."""

    shares_B: torch.Tensor  # float32 in [0, 1], of the clip itself
    partners_B: torch.Tensor  # int64, where the other one is; on the CPU, as lengths are

    def to(self, device: torch.device) -> Mix:
        return Mix(self.shares_B.to(device), self.partners_B)

    def of(self, values_BX: torch.Tensor) -> torch.Tensor:
        """Anything that is known of each clip, in any number of dimensions."""
        shares_BX = self.shares_B.reshape(-1, *[1] * (values_BX.ndim - 1)).to(values_BX.dtype)
        return shares_BX * values_BX + (1 - shares_BX) * values_BX[self.partners_B]

    def of_clips(
        self, values_BTD: torch.Tensor, lengths_B: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Clips that are as long as the longer one; where one has ended, nothing is mixed in."""
        own_BT1 = real_tokens(lengths_B, values_BTD)[:, :, None]
        return self.of(values_BTD * own_BT1), lengths_B.maximum(lengths_B[self.partners_B])


class BagPath(nn.Module):
    """Logits that are linear in how often each token occurs, log(1 + count), to be added to those
    of a model that hears the tokens' order (the wide path of Cheng et al., Wide & Deep Learning,
    2016). Begins at zero. Parameters: V C."""

    def __init__(self, vocabulary: Vocabulary, num_classes: int) -> None:
        super().__init__()
        self._sizes = [vocabulary.size] * vocabulary.num_codebooks
        self.dropout = nn.Dropout(BAG_DROPOUT)
        self.head = nn.Linear(sum(self._sizes), num_classes, bias=False)
        nn.init.zeros_(self.head.weight)

    def forward(self, tokens_BTQ: torch.Tensor, mix: Mix | None = None) -> torch.Tensor:
        """[B, C]."""
        counted = zip(tokens_BTQ.unbind(dim=2), self._sizes, strict=True)
        features_BV = torch.cat([counts(tokens_BT, size) for tokens_BT, size in counted], dim=1)
        features_BV = features_BV.log1p()
        if mix is not None:
            features_BV = mix.of(features_BV)
        logits_BC: torch.Tensor = self.head(self.dropout(features_BV))
        return logits_BC


def counts(tokens_BT: torch.Tensor, size: int) -> torch.Tensor:
    """How often each of `size` tokens occurs in each clip, float32 [B, size]; larger ids, such as
    padding, do not count."""
    clipped_BT = tokens_BT.clamp_max(size)
    ones_BT = torch.ones_like(clipped_BT, dtype=torch.float32)
    zeros_BV = ones_BT.new_zeros(len(tokens_BT), size + 1)
    return zeros_BV.scatter_add(1, clipped_BT, ones_BT)[:, :size]


class Classifier(nn.Module):
    """A model; `lengths_B` stays on the CPU, where asking for it waits for no GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.bag: BagPath | None = None

    def embedded(self, inputs_BTN: torch.Tensor) -> torch.Tensor:
        """Vectors [B, T, D] of places: frames are theirs already."""
        return inputs_BTN

    def classified(self, embedded_BTD: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        """Logits [B, C]."""
        raise NotImplementedError

    def forward(
        self, inputs_BTN: torch.Tensor, lengths_B: torch.Tensor, mix: Mix | None = None
    ) -> torch.Tensor:
        embedded_BTD = self.embedded(inputs_BTN)
        if mix is not None:
            embedded_BTD, lengths_B = mix.of_clips(embedded_BTD, lengths_B)
        logits_BC = self.classified(embedded_BTD, lengths_B)
        if self.bag is not None:
            logits_BC = logits_BC + self.bag(inputs_BTN, mix)
        return logits_BC

    def add_bag(self, config: TokenModel, vocabulary: Vocabulary, num_classes: int) -> None:
        """The path beside the model, where the config asks for it."""
        if config.bag_path:
            self.bag = BagPath(vocabulary, num_classes)
