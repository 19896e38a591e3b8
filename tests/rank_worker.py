"""One rank of a made training: `python -m tests.rank_worker gradients|fit CONFIG OUT`.

`gradients` writes what ranks make of one global batch. `fit` trains as the command does, writes
down which clips each step saw, and does to itself what the environment says: `KILL=RANK:STEP`,
`TERM=RANK:STEP` or `TERM_IN_VALIDATION=RANK`, once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from configs.load import load_config
from configs.models import BertModel, CnnModel, FrameModel, LinearModel, LstmModel, NeuralModel
from configs.schema import Config, TrainConfig
from configs.signals import leave
from shards.layout import Layout
from shards.stream.schedule import Place
from train import fit as fitting
from train import loop, validation
from train.data import open_data
from train.loop import accumulate, prepare
from train.models import build
from train.ranks import Ranks, joined, whole
from train.training import Fit
from train.world import world_of

SECTIONS: dict[str, NeuralModel] = {
    "bert": BertModel(kind="bert", layers=2, width=8, heads=2, max_positions=128, dropout=0),
    "lstm": LstmModel(kind="lstm", width=8, hidden=8, dropout=0),
    "linear": LinearModel(kind="linear", width=8, dropout=0),
    "attention": LstmModel(kind="lstm", width=8, hidden=8, dropout=0, pooling="attention"),
    "cnn": CnnModel(kind="cnn", channels=(4, 8), hidden=8, dropout=0),
}
SIZES = {"uneven": (13, 2), "one clip": (1, 1), "in one piece": (11, 11)}  # batch, micro-batch
CLIP_NORM = 0.01


def gradients(config: Config, ranks: Ranks, how: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Loss, gradient and its norm for each model and size, whole."""
    for kind, section in SECTIONS.items():
        reads = section.reads if isinstance(section, FrameModel) else "tokens"
        data = open_data(Layout(config.run), "default", config.split, None, reads=reads)
        for size, (batch, micro) in SIZES.items():
            train = TrainConfig(batch_size=batch, micro_batch_size=micro, device="cpu", threads=1)
            prepare(train)
            model = build(section, data.seen, len(data.classes), data.longest)
            model = ranks.spread(model, "fsdp" if how == "fsdp" else "ddp")
            one = Fit("", Path(), Path(), "", data, train, ranks)
            step = next(one.reader.steps(Place(0, 0)))
            loss = accumulate(one, model, step, 0)
            gradient = flat_gradient(model)
            norm = float(whole(nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)))
            found = {"gradient": gradient, "clipped": flat_gradient(model)}
            yield f"{kind} {size}", {"loss": loss, "norm": norm, **found}


def flat_gradient(model: nn.Module) -> torch.Tensor:
    return torch.cat([whole(p.grad).flatten() for p in model.parameters() if p.grad is not None])


def write_gradients(config: Config, out: Path) -> None:
    with joined(world_of(os.environ), TrainConfig(device="cpu")) as ranks:
        for how in ("ddp", "fsdp"):
            for name, found in gradients(config, ranks, how):
                if ranks.is_first:
                    np.savez(out / f"{how} {name}.npz", **found)


@contextmanager
def watched(out: Path) -> Iterator[None]:
    """Every step is written down, and may be the last one."""
    rank = os.environ.get("RANK", "0")

    def noted(one: Fit, model: nn.Module, step: Any, number: int) -> float:
        for name, sent in (("KILL", signal.SIGKILL), ("TERM", signal.SIGTERM)):
            if os.environ.get(name) == f"{rank}:{number}":
                os.kill(os.getpid(), sent)
        counted = [batch.rows_B[batch.weights_B.numpy() > 0].tolist() for batch in step.batches]
        with (out / f"{rank}.jsonl").open("a") as file:
            file.write(json.dumps({"step": number, "rows": [*chain(*counted)]}) + "\n")
        return usual(one, model, step, number)

    def validated(*args: Any) -> Iterator[Any]:
        if os.environ.get("TERM_IN_VALIDATION") == rank:
            os.kill(os.getpid(), signal.SIGTERM)
        yield from logits(*args)

    usual, loop.accumulate = loop.accumulate, noted
    logits, validation.batch_logits = validation.batch_logits, validated
    try:
        yield
    finally:
        loop.accumulate, validation.batch_logits = usual, logits


def examples(*outs: Path) -> dict[int, list[int]]:
    """What each step saw, on all ranks; of one that was repeated, what it saw last."""
    seen: dict[int, list[int]] = {}
    for out in outs:
        by_step: dict[int, list[int]] = defaultdict(list)
        for path in out.glob("*.jsonl"):
            for line in path.read_text().splitlines():
                record = json.loads(line)
                by_step[record["step"]] += record["rows"]
        seen |= {step: sorted(rows) for step, rows in by_step.items()}
    return seen


def main() -> int:
    verb, config, out = sys.argv[1], load_config(Path(sys.argv[2])), Path(sys.argv[3])
    if verb == "gradients":
        write_gradients(config, out)
        return 0
    from configs.cli import Verb
    from configs.cli import main as run

    with watched(out):
        return run("train", {"fit": Verb(fitting.run, "train")}, ["fit", sys.argv[2]])


if __name__ == "__main__":
    leave(main())
