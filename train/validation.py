"""Loss and mAP of the validation clips, computed once over all of them by all ranks together."""

from __future__ import annotations

import math
from contextlib import closing

import numpy as np
import pyarrow.compute as pc
import torch
from torch import nn

from configs.errors import InputError
from configs.schema import TrainConfig
from shards.commit import REPAIR
from shards.index import decoded, open_shards, read_index
from shards.layout import Layout
from train.batches import Rows
from train.data import TokenData
from train.device import autocast
from train.logits import LogitsNC, batch_logits
from train.losses import LOSSES
from train.metrics import mean_ap
from train.ranks import Ranks
from train.stop import Stop


def validate(
    model: nn.Module, data: TokenData, config: TrainConfig, ranks: Ranks, stop: Stop
) -> dict[str, float] | None:
    """`valid_loss` and `valid_map`, the same on every rank, NaN where some logit is no number; None
    where one was asked to stop. Raises InputError on every rank where damage leaves no clip that
    has a label.

    Each rank computes the logits of every n-th clip, as many as the others: where ranks do not
    divide the clips, some are computed twice, and count once.
    """
    rows = _whole_everywhere(data, data.rows("valid"), ranks)
    targets_NC = data.targets(rows)
    if not ranks.any(ranks.is_first and bool(targets_NC.any())):
        raise InputError(
            f"no validation clip that is whole has a label (data.on_damage=mask); {REPAIR}"
        )
    number_n = np.arange(ranks.world.rank, -(-len(rows) // ranks.count) * ranks.count, ranks.count)
    own_NC = _logits(model, data, rows[number_n % len(rows)], config, ranks, stop)
    if own_NC is None:
        return None
    order_N = np.argsort(ranks.concatenated(number_n))[: len(rows)]
    logits_NC = ranks.concatenated(own_NC)[order_N]
    loss, score = _scores(logits_NC, targets_NC, data.task) if ranks.is_first else (0.0, 0.0)
    loss, score = ranks.total(loss, score)
    return {"valid_loss": loss, "valid_map": score}


def _logits(
    model: nn.Module, data: TokenData, rows: Rows, config: TrainConfig, ranks: Ranks, stop: Stop
) -> LogitsNC | None:
    """In the precision of the training, whose memory they have to fit into."""
    num_batches = -(-len(rows) // config.forward_size)
    with closing(stop.until_asked(data.batches(rows, config.forward_size))) as batches:
        together = ranks.in_step(batches, num_batches)
        precision = autocast(config, ranks.device)
        parts = [*batch_logits(model, together, ranks.device, precision)]
    is_cut = ranks.any(stop.asked or len(parts) < num_batches)
    return None if is_cut else np.concatenate(parts)


def _whole_everywhere(data: TokenData, rows: Rows, ranks: Ranks) -> Rows:
    """Those of some rows that every rank can read: damage is a host's own."""
    return np.setdiff1d(rows, ranks.concatenated(np.setdiff1d(rows, data.whole(rows))))


def _scores(logits_NC: LogitsNC, targets_NC: LogitsNC, task: str) -> tuple[float, float]:
    if not np.isfinite(logits_NC).all():
        return math.nan, math.nan
    losses_N = LOSSES[task](torch.from_numpy(logits_NC), torch.from_numpy(targets_NC))
    return float(losses_N.mean()), mean_ap(logits_NC, targets_NC, task)


def refuse_unlabelled(layout: Layout, data: TokenData) -> None:
    """Raises InputError where no validation clip has a label. The index says so: no shard is read,
    which may have to come from afar."""
    index = decoded(read_index(layout, open_shards(layout).records, ["labels", "status"]))
    num_labels_N = pc.list_value_length(index["labels"]).to_numpy()
    rows = data.rows("valid")
    if len(rows) and not num_labels_N[rows].any():
        raise InputError(
            "split: no validation clip has a label, so there is nothing to score in training: "
            "raise split.valid_share, or set it to 0"
        )
