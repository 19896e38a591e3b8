"""Models that the training loop trains: a dict of builders, one file each.

All take `tokens_BTQ` (int64, a token of each of Q codebooks, `pad_id` beyond a clip's length) and
`lengths_B` and return `logits_BC`. Ids that are no tokens belong to the model: PAD = k, CLS = k + 1
and MASK = k + 2, where k counts a codebook's tokens, that of silence included.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from configs.schema import Model
from train.models.bert import build_bert
from train.models.embedding import Vocabulary
from train.models.linear import build_linear
from train.models.lstm import build_lstm

# (the model's config section, its tokens, C classes, tokens of the longest clip) -> module
BUILDERS: dict[str, Callable[[Any, Vocabulary, int, int], nn.Module]] = {
    "bert": build_bert,
    "linear": build_linear,
    "lstm": build_lstm,
}


def build(model: Model, vocabulary: Vocabulary, num_classes: int, longest: int) -> nn.Module:
    """The untrained module of a neural model's config section."""
    return BUILDERS[model.kind](model, vocabulary, num_classes, longest)
