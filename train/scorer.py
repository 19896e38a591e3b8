"""From a clip's tokens and frames to logits, by a committed model: bag, network of either.

Legend: N clips, T places, Q codebooks, M bins of a frame, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load_file as load_arrays
from torch import nn

from configs.frames import FramesConfig
from configs.models import BagModel, FrameModel
from pipeline.audio.front_end import FramesTM, FrontEnd
from pipeline.audio.quantise import TokensTQ
from shards.codebook import Codebook
from train.bag import Tensors, counts_of, logits_of_counts
from train.committed import Committed
from train.data import vocabulary_of
from train.inputs import made_of, padded, width_of
from train.logits import LogitsNC, scored, trained
from train.models import build
from train.models.embedding import Vocabulary

# (tokens, stored frames) of some clips -> their logits [N, C]
Scorer = Callable[[Sequence[TokensTQ], Sequence[FramesTM]], LogitsNC]
Parts = Sequence[npt.NDArray[np.generic]]


def scorer_of(
    committed: Committed, codebook: Codebook, frames: FramesConfig, device: torch.device
) -> Scorer:
    """What evaluation does with sealed tokens and frames, with those of any clips; raises
    IntegrityError where the weights changed."""
    section = committed.model
    if isinstance(section, BagModel):
        return partial(_by_bag, load_arrays(committed.weights), codebook.k)
    if isinstance(section, FrameModel):
        front_end = _front_end(section, codebook)
        network = _network(committed, width_of(front_end, frames.num_bins), device)
        return partial(_by_frames, network, front_end, device)
    network = _network(committed, vocabulary_of(codebook), device)
    return partial(_by_tokens, network, codebook.vocabulary, device)


def _front_end(section: FrameModel, codebook: Codebook) -> FrontEnd | None:
    if section.reads == "frames":
        return None
    return FrontEnd.restored(codebook.front_end, codebook.front_end_tensors)


def _network(committed: Committed, seen: Vocabulary | int, device: torch.device) -> nn.Module:
    untrained = build(committed.model, seen, len(committed.titles), committed.longest)
    return trained(untrained, committed.weights, device)


def _by_bag(
    tensors: Tensors, k: int, tokens: Sequence[TokensTQ], _: Sequence[FramesTM]
) -> LogitsNC:
    counts_NK = counts_of(np.concatenate(tokens), _lengths(tokens), k)
    return logits_of_counts(tensors, counts_NK)


def _by_tokens(
    model: nn.Module,
    pad_id: int,
    device: torch.device,
    tokens: Sequence[TokensTQ],
    _: Sequence[FramesTM],
) -> LogitsNC:
    return _forward(model, tokens, np.int64(pad_id), device)


def _by_frames(
    model: nn.Module,
    front_end: FrontEnd | None,
    device: torch.device,
    _: Sequence[TokensTQ],
    clips: Sequence[FramesTM],
) -> LogitsNC:
    return _forward(model, made_of(front_end, clips), np.float32(0), device)


def _forward(model: nn.Module, parts: Parts, filling: np.generic, device: torch.device) -> LogitsNC:
    inputs_NTX, lengths_N = padded(parts, filling), torch.from_numpy(_lengths(parts))
    return scored(model, inputs_NTX.to(device), lengths_N)


def _lengths(parts: Parts) -> npt.NDArray[np.int64]:
    return np.array([len(part_TX) for part_TX in parts], dtype=np.int64)
