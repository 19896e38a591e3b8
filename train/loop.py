"""The training loop: exact accumulation, checkpoints, and the same weights after any kill.

Nothing here depends on what happened before a step except model, optimizer and the position in
the stream: the learning rate is a function of the step, the clips of the position, and dropout's
seed of (seed, step, micro-batch). So a resumed run computes what the undisturbed one computes.
"""

from __future__ import annotations

import hashlib
import json
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from configs.console import Progress, say
from configs.errors import InputError, Preempted, TrainingFailed
from configs.schema import TrainConfig
from shards.atomic import write_whole
from shards.order import examples_at
from train import checkpoint
from train.checkpoint import Cursor
from train.data import Rows, TokenData
from train.losses import LOSSES
from train.metrics import evaluate
from train.optim import build_optimizer, learning_rate
from train.predict import logits_of

LOG_EVERY_STEPS = 10


@dataclass(frozen=True)
class Fit:
    """One training: where it lives, what it trains on, and how."""

    title: str
    directory: Path
    partial: Path
    recipe: str
    data: TokenData
    config: TrainConfig
    lr: float
    epochs: int
    device: torch.device

    @cached_property
    def rows(self) -> Rows:
        return self.data.rows("train")

    @property
    def num_positions(self) -> int:
        return self.epochs * len(self.rows)

    @property
    def num_steps(self) -> int:
        return math.ceil(self.num_positions / self.config.batch_size)

    def position(self, step: int) -> int:
        """Examples consumed before a step; the last step takes what is left."""
        return min(step * self.config.batch_size, self.num_positions)

    @property
    def checkpoints(self) -> Path:
        return self.directory / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.directory / "metrics.jsonl"


def train(fit: Fit, model: nn.Module) -> None:
    """Train to the end, from the newest checkpoint if there is one.

    Raises Preempted after a signal, with a checkpoint of the last step; TrainingFailed where the
    loss stops being a number, with the last good checkpoint kept.
    """
    model.to(fit.device).train()
    optimizer = build_optimizer(model, fit.lr, fit.config.weight_decay)
    first_step = _resume(fit, model, optimizer)
    with _signals() as stop, Progress(fit.title, fit.num_steps - first_step, "clips") as progress:
        for step in range(first_step, fit.num_steps):
            log = _step(fit, model, optimizer, step)
            done = step + 1
            _log(fit, model, done, log)
            if stop or done == fit.num_steps or done % fit.config.checkpoint_every_steps == 0:
                _save(fit, model, optimizer, done)
            if stop and done < fit.num_steps:
                raise Preempted(f"{fit.title}: saved step {done} of {fit.num_steps}; run again")
            progress.advance(int(log["clips"]), f"loss {log['loss']:.4f}")


def _step(
    fit: Fit, model: nn.Module, optimizer: torch.optim.Optimizer, step: int
) -> dict[str, float]:
    """One optimizer update over a global batch, in micro-batches of the configured size."""
    started_s = time.monotonic()
    lr = learning_rate(step, fit.num_steps, fit.lr, fit.config)
    for group in optimizer.param_groups:
        group["lr"] = lr
    start, stop = fit.position(step), fit.position(step + 1)
    rows = fit.rows[examples_at(fit.config.seed, len(fit.rows), start, stop)]
    loss = accumulate(fit, model, rows, step)
    grad_norm = float(nn.utils.clip_grad_norm_(model.parameters(), fit.config.clip_norm))
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise TrainingFailed(_not_finite(fit, step, rows, loss, grad_norm))
    optimizer.step()
    optimizer.zero_grad()
    seconds = time.monotonic() - started_s
    return {"loss": loss, "lr": lr, "grad_norm": grad_norm, "clips": len(rows), "seconds": seconds}


def accumulate(fit: Fit, model: nn.Module, rows: Rows, step: int) -> float:
    """Add the gradient of the mean loss over `rows`, forward_size clips at a time.

    Every micro-batch divides by the clips of the whole batch, so uneven ones weigh right.
    Returns the mean loss.
    """
    total = 0.0
    for number, batch in enumerate(fit.data.batches(rows, fit.config.forward_size)):
        torch.manual_seed(_seed_of(fit.config.seed, step, number))
        part = batch.to(fit.device)
        with torch.autocast(
            fit.device.type, dtype=torch.bfloat16, enabled=uses_bf16(fit.config, fit.device)
        ):
            logits_BC = model(part.tokens_BT, part.lengths_B)
        loss = LOSSES[fit.data.task](logits_BC.float(), part.targets_BC) / len(rows)
        loss.backward()
        total += float(loss.detach())
    return total


def uses_bf16(config: TrainConfig, device: torch.device) -> bool:
    return config.precision == "bf16" or (config.precision == "auto" and device.type == "cuda")


def choose_device(asked: str) -> torch.device:
    """The device to train on; raises InputError for a GPU that is not there."""
    if asked == "cuda" and not torch.cuda.is_available():
        raise InputError("train.device=cuda, but torch sees no GPU; use auto or cpu")
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(asked)


def _seed_of(*parts: int) -> int:
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _resume(fit: Fit, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    newest = checkpoint.newest(fit.checkpoints)
    if newest is None:
        _keep_metrics(fit, 0)
        return 0
    step, cursor = checkpoint.restore(newest, model, optimizer, fit.recipe)
    assert cursor == _cursor(fit, step), "the recipe fixes the stream"
    _keep_metrics(fit, step)
    say(f"{fit.title}: going on after step {step} of {fit.num_steps}")
    return step


def _cursor(fit: Fit, step: int) -> Cursor:
    return Cursor(fit.data.reader.fingerprint, fit.config.seed, fit.position(step))


def _save(fit: Fit, model: nn.Module, optimizer: torch.optim.Optimizer, done: int) -> None:
    cursor = _cursor(fit, done)
    checkpoint.save(fit.checkpoints, fit.partial, done, model, optimizer, cursor, fit.recipe)
    checkpoint.keep_last(fit.checkpoints, fit.partial, fit.config.keep_checkpoints)


def _log(fit: Fit, model: nn.Module, done: int, log: dict[str, float]) -> None:
    if done % LOG_EVERY_STEPS == 0 or done in (1, fit.num_steps):
        epoch = round(fit.position(done) / len(fit.rows), 4)
        _append(fit, {"step": done, "epoch": epoch, **log})
    if _ends_evaluated_epoch(fit, done) and len(fit.data.rows("valid")):
        _append(fit, {"step": done, **_validate(fit, model)})


def _ends_evaluated_epoch(fit: Fit, done: int) -> bool:
    """Whether the step just done passed a multiple of `evaluate_every_epochs`, or was the last."""
    if done == fit.num_steps:
        return True
    span = fit.config.evaluate_every_epochs * len(fit.rows)
    return fit.position(done) // span > fit.position(done - 1) // span


def _validate(fit: Fit, model: nn.Module) -> dict[str, float]:
    rows = fit.data.rows("valid")
    logits_NC = logits_of(model, fit.data, rows, fit.config.forward_size, fit.device)
    targets_NC = fit.data.targets(rows)
    tensors = torch.from_numpy(logits_NC), torch.from_numpy(targets_NC)
    loss = float(LOSSES[fit.data.task](*tensors)) / len(rows)
    scores = evaluate(logits_NC, targets_NC, fit.data.task)
    return {"valid_loss": loss, "valid_map": scores["map"]}


def _append(fit: Fit, record: dict[str, Any]) -> None:
    fit.directory.mkdir(parents=True, exist_ok=True)
    with fit.metrics.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def _keep_metrics(fit: Fit, step: int) -> None:
    """Drop what a killed run logged after the checkpoint that is gone on from."""
    kept = [record for record in read_metrics(fit.metrics) if record["step"] <= step]
    text = "".join(json.dumps(record) + "\n" for record in kept)
    write_whole(fit.partial, fit.metrics, text.encode())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; a line that a kill cut short is left out."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
    return records


def _not_finite(fit: Fit, step: int, rows: Rows, loss: float, grad_norm: float) -> str:
    ids = ", ".join(fit.data.ids[row] for row in rows[:5])
    return (
        f"{fit.title}: step {step + 1} gave loss {loss} and gradient norm {grad_norm} (clips {ids} "
        f"...); the last checkpoint is kept. Lower train.lr or the model's lr and run again "
        "under another model name"
    )


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGTERM, SIGINT and SIGUSR1 instead of dying, so that a step can be finished."""
    caught: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = [signal.signal(number, lambda n, _: caught.append(n)) for number in numbers]
    try:
        yield caught
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def prepare(config: TrainConfig) -> None:
    """Seed the initial weights, and set how the CPU computes.

    Denormals become zero: the gradients of a fresh LSTM are so small that its first epochs would
    take 10 times as long.
    """
    torch.manual_seed(_seed_of(config.seed))
    torch.set_flush_denormal(True)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
