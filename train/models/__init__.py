"""Models that the training loop trains: a dict of builders, one file each.

All take `inputs_BTN` (int64 tokens of N = Q codebooks, `pad_id` beyond a clip's length; or float32
vectors of N numbers, of which what lies beyond is nothing) and `lengths_B` and return `logits_BC`.
Ids that are no tokens belong to the model: PAD = k, CLS = k + 1 and MASK = k + 2, where k counts a
codebook's tokens, that of silence included. MASK is kept for models that guess what is hidden: span
masks write PAD.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from configs.models import Model
from train.models.ast import build_ast
from train.models.bert import build_bert
from train.models.bert_frames import build_bert_frames
from train.models.cnn import build_cnn
from train.models.embedding import Vocabulary
from train.models.linear import build_linear
from train.models.lstm import build_lstm
from train.models.mlp import build_mlp

# (the model's config section, what it meets, C classes, places of the longest clip) -> module
BUILDERS: dict[str, Callable[[Any, Any, int, int], nn.Module]] = {
    "ast": build_ast,
    "bert": build_bert,
    "bert_frames": build_bert_frames,
    "cnn": build_cnn,
    "linear": build_linear,
    "lstm": build_lstm,
    "mlp": build_mlp,
}


def build(model: Model, seen: Vocabulary | int, num_classes: int, longest: int) -> nn.Module:
    """The untrained module of a neural model's config section; `seen` is what it meets at each
    place of a clip, tokens or a vector of so many numbers."""
    return BUILDERS[model.kind](model, seen, num_classes, longest)
