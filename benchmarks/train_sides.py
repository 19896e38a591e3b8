"""What `benchmarks.train` times, each side in a process of its own.

    python -m benchmarks.train_sides SIDE STEPS BATCH MICRO_BATCH CLIPS DIRECTORY

Every step waits for a line, and says in one what it took.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.stream_formats import NUM_CLASSES, VOCABULARY, write_ours
from configs.models import BertModel
from configs.schema import TrainConfig
from train.batches import Batch, Classes
from train.data import TokenData
from train.models import build

BERT = BertModel(
    kind="bert",
    layers=4,
    width=256,
    heads=4,
    max_positions=448,
    pooling="mean",
    dropout=0.1,
    embedding="random",  # as Trainer's
)
SEED = 0
STEP = "step took "


class Clock:
    """Says what each step took, and holds it back until its turn comes."""

    def __init__(self) -> None:
        self._cpu_s = self._wall_s = 0.0

    def wait(self) -> None:
        """For the turn; what threads compute meanwhile is of the next step."""
        self._cpu_s = time.process_time()
        sys.stdin.readline()
        self._wall_s = time.perf_counter()

    def tick(self, waited_s: float = 0.0) -> None:
        cpu_s, wall_s = time.process_time() - self._cpu_s, time.perf_counter() - self._wall_s
        took = {"cpu_s": cpu_s, "wall_s": wall_s, "waited_s": waited_s}
        print(STEP + json.dumps(took), flush=True)
        self.wait()


@dataclass(frozen=True)
class Task:
    """What all sides train."""

    steps: int
    batch: int
    micro_batch: int
    clips: int
    directory: Path

    def data(self) -> TokenData:
        """The made clips as a token set, written the first time."""
        from shards.codebook import Codebook
        from shards.layout import Layout
        from shards.plan import ClassName
        from shards.stream.tokens import open_tokens

        place = self.directory / f"{self.clips}-clips"
        is_written = place.with_suffix(".is-written")
        if not is_written.exists():
            shutil.rmtree(place, ignore_errors=True)
            write_ours(place, self.clips)
            is_written.touch()
        centroids_QKD = np.zeros((1, VOCABULARY, 1), dtype=np.float32)
        codebook = Codebook(centroids_QKD, "l2", {}, {}, 22_050, "made")
        names = [ClassName(f"/c/{number}", f"class {number}") for number in range(NUM_CLASSES)]
        learnt = Classes.chosen(names, range(NUM_CLASSES))
        ids = tuple(f"Y{number:010d}" for number in range(self.clips))
        splits = np.zeros(self.clips, dtype=np.uint8)
        source = open_tokens(Layout(place), "default")
        return TokenData(source, codebook, "made", learnt, "multilabel", ids, splits)

    @property
    def config(self) -> TrainConfig:
        return TrainConfig(
            epochs=1,
            batch_size=self.batch,
            micro_batch_size=self.micro_batch,
            device="cpu",
            threads=1,
            checkpoint_every_steps=10_000,
            seed=SEED,
        )

    def model(self, data: TokenData) -> nn.Module:
        torch.manual_seed(SEED)
        return build(BERT, data.seen, NUM_CLASSES, data.longest)


def ours(task: Task, clock: Clock) -> None:
    from train import loop
    from train.ranks import Ranks
    from train.stop import Stop
    from train.training import Fit

    class Done(Exception):
        pass

    def logged(fit: Any, done: int, after: Any, log: dict[str, float]) -> None:
        log_as_usual(fit, done, after, log)
        clock.tick(log["waited_s"])
        if done == task.steps:
            raise Done

    log_as_usual = loop._log
    vars(loop)["_log"] = logged
    place = task.directory / "ours"
    shutil.rmtree(place, ignore_errors=True)
    data = task.data()
    ranks = Ranks(torch.device("cpu"))
    fit = Fit("ours", place, place / "partial", "made", data, task.config, ranks)
    loop.prepare(task.config)
    try:
        loop.train(fit, task.model(data), Stop())
    except Done:
        return


def _batches(task: Task, count: int) -> list[Batch]:
    """Micro-batches as our reader gives them."""
    data = task.data()
    steps = data.stream(data.rows("train"), task.config).steps()
    found: list[Batch] = []
    while len(found) < count:
        found += next(steps).batches
    return found


def _loss(logits_BC: torch.Tensor, targets_BC: torch.Tensor) -> torch.Tensor:
    return nn.functional.binary_cross_entropy_with_logits(logits_BC, targets_BC)


def bare(task: Task, clock: Clock) -> None:
    from train.loop import prepare
    from train.optim import build_optimizer

    prepare(task.config)
    model = task.model(task.data()).train()
    optimizer = build_optimizer(model, task.config.lr, task.config.weight_decay)
    parts = task.batch // task.micro_batch
    batches = _batches(task, parts * task.steps)
    for step in range(task.steps):
        for batch in batches[step * parts : (step + 1) * parts]:
            logits_BC = model(batch.inputs_BTN, batch.lengths_B)
            (_loss(logits_BC, batch.targets_BC) / parts).backward()
        nn.utils.clip_grad_norm_(model.parameters(), task.config.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        clock.tick()


class _WithLoss(nn.Module):
    """A model as Trainer wants it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, tokens: torch.Tensor, length: torch.Tensor, labels: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        logits_BC = self.model(tokens, length)
        return {"loss": _loss(logits_BC, labels), "logits": logits_BC}


def _hf_arguments(task: Task) -> Any:
    """Our recipe in its words."""
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=str(task.directory / "hf_trainer"),
        use_cpu=True,
        max_steps=task.steps,
        per_device_train_batch_size=task.micro_batch,
        gradient_accumulation_steps=task.batch // task.micro_batch,
        learning_rate=task.config.lr,
        weight_decay=task.config.weight_decay,
        adam_beta2=0.98,
        max_grad_norm=task.config.clip_norm,
        lr_scheduler_type="cosine",
        optim="adamw_torch_fused",
        logging_steps=10,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        seed=SEED,
    )


def hf_trainer(task: Task, clock: Clock) -> None:
    from transformers import Trainer, TrainerCallback

    from train.loop import prepare

    class Ticks(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.tick()

    prepare(task.config)
    data = task.data()
    clips = [
        {"tokens": tokens_TQ, "length": length, "labels": targets_C}
        for batch in _batches(task, task.steps * task.batch // task.micro_batch)
        for tokens_TQ, length, targets_C in zip(
            batch.inputs_BTN, batch.lengths_B, batch.targets_BC, strict=True
        )
    ]
    model = _WithLoss(task.model(data))
    arguments = _hf_arguments(task)
    Trainer(model=model, args=arguments, train_dataset=clips, callbacks=[Ticks()]).train()


SIDES: dict[str, Callable[[Task, Clock], None]] = {
    "ours": ours,
    "hf_trainer": hf_trainer,
    "bare": bare,
}


def main() -> None:
    side, *numbers, directory = sys.argv[1:]
    steps, batch, micro_batch, clips = map(int, numbers)
    clock = Clock()
    clock.wait()
    SIDES[side](Task(steps, batch, micro_batch, clips, Path(directory)), clock)


if __name__ == "__main__":
    main()
