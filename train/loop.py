"""The training loop: exact accumulation, checkpoints, and the same weights after any kill.

Nothing here depends on what happened before a step except model, optimizer and the position in
the stream: the learning rate is a function of the step, the clips of the position, and dropout's
seed of (seed, step, micro-batch). So a resumed run computes what the undisturbed one computes.
"""

from __future__ import annotations

import hashlib
import math
import time
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn

from configs.console import Progress, say
from configs.errors import Preempted, TrainingFailed
from configs.schema import TrainConfig
from shards.audit import JOURNAL_NAME
from shards.stream.sampler import Cursor
from shards.stream.schedule import Place, Schedule
from shards.stream.stream import Step
from train import checkpoint
from train.data import Batch, Rows, TokenData, padding_share
from train.device import set_up_cpu, uses_bf16
from train.jobs import CHECKPOINTS_NAME
from train.journal import Journal
from train.losses import LOSSES, Loss, build_loss
from train.metrics import evaluate
from train.optim import build_optimizer, learning_rate
from train.predict import batch_logits
from train.readers import Reader, open_reader
from train.stop import Stop

LOG_EVERY_STEPS = 10


@dataclass(frozen=True)
class Fit:
    """One training: where it lives, what it trains on, and how."""

    title: str
    directory: Path
    partial: Path
    fingerprint: str
    data: TokenData
    config: TrainConfig
    device: torch.device

    @cached_property
    def rows(self) -> Rows:
        return self.data.rows("train")

    @cached_property
    def reader(self) -> Reader:
        return open_reader(self.data, self.rows, self.config)

    @cached_property
    def loss(self) -> Loss:
        return build_loss(self.config, self.data.task, lambda: self.data.count_classes(self.rows))

    @property
    def schedule(self) -> Schedule:
        return self.reader.sampler.schedule

    @property
    def num_steps(self) -> int:
        return self.schedule.num_steps

    def ends_evaluated_epoch(self, done: int) -> bool:
        """Whether the step that was done last passed a multiple of `evaluate_every_epochs`, or
        was the last."""
        if done == self.num_steps:
            return True
        before, after = (self.schedule.place_of(step).epoch for step in (done - 1, done))
        span = self.config.evaluate_every_epochs
        return after // span > before // span

    @property
    def checkpoints(self) -> Path:
        return self.directory / CHECKPOINTS_NAME

    @property
    def journal(self) -> Journal:
        return Journal(self.directory / JOURNAL_NAME, self.partial)


def train(fit: Fit, model: nn.Module, stop: Stop) -> None:
    """Train to the end, from the newest checkpoint if there is one.

    Raises Preempted after a signal, with a checkpoint of the step in which it came, or after which
    it came in a validation or a wait for data (where nothing is left to do, the training ends);
    TrainingFailed where the loss stops being a number, with the last good checkpoint kept.
    """
    model.to(fit.device).train()
    optimizer = build_optimizer(model, fit.config.lr, fit.config.weight_decay)
    first_step, place = _resume(fit, model, optimizer)
    with (
        stop.deferring(),
        Progress(fit.title, fit.num_steps, "clips", first_step) as progress,
        # Closed also where an error keeps its frames alive.
        closing(stop.until_asked(fit.reader.steps(place))) as steps,
    ):
        done, after = first_step, None
        for done, step in enumerate(steps, first_step + 1):
            after = step.after
            log = _step(fit, model, optimizer, done - 1, step)
            _log(fit, done, after, log)
            _log_masked(fit, done, step)
            if done == fit.num_steps or done % fit.config.checkpoint_every_steps == 0:
                _save(fit, model, optimizer, done, after)
            if fit.ends_evaluated_epoch(done):
                _validate(fit, model, done, stop)
            progress.advance(int(log["clips"]), f"loss {log['loss']:.4f}")
        if stop.asked and (done < fit.num_steps or _wants_validation(fit, done)):
            if after is not None:  # else nothing is done that was not saved
                _save(fit, model, optimizer, done, after)
            raise Preempted(f"{fit.title}: saved step {done} of {fit.num_steps}; run again")


def _step(
    fit: Fit,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    number: int,
    step: Step[Batch],
) -> dict[str, float]:
    """One optimizer update over a global batch, in micro-batches of the configured size."""
    started_s = time.monotonic()
    lr = learning_rate(number, fit.num_steps, fit.config)
    for group in optimizer.param_groups:
        group["lr"] = lr
    loss = accumulate(fit, model, step, number)
    grad_norm = float(nn.utils.clip_grad_norm_(model.parameters(), fit.config.clip_norm))
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise TrainingFailed(_not_finite(fit, number, step, loss, grad_norm))
    optimizer.step()
    optimizer.zero_grad()
    return {
        "loss": loss,
        "lr": lr,
        "grad_norm": grad_norm,
        "clips": step.num_examples,
        "seconds": time.monotonic() - started_s,
        "waited_s": step.waited_s,
        "read_s": step.read_s,
        "collate_s": step.collate_s,
        "padding_share": padding_share(step.batches),
    }


def accumulate(fit: Fit, model: nn.Module, step: Step[Batch], number: int) -> float:
    """Add the gradient of the mean loss over a step, one micro-batch at a time.

    Every micro-batch divides by the clips of the whole batch that count, so uneven ones weigh right
    and a masked clip weighs nothing. Returns the mean loss.
    """
    total, num_counted = 0.0, max(1.0, sum(float(batch.weights_B.sum()) for batch in step.batches))
    for micro, batch in enumerate(step.batches):
        torch.manual_seed(_seed_of(fit.config.seed, number, micro))
        part = batch.to(fit.device)
        with torch.autocast(
            fit.device.type, dtype=torch.bfloat16, enabled=uses_bf16(fit.config, fit.device)
        ):
            logits_BC = model(part.tokens_BTQ, part.lengths_B)
        loss_B = fit.loss(logits_BC.float(), part.targets_BC)
        loss = (loss_B * part.weights_B).sum() / num_counted
        loss.backward()
        total += float(loss.detach())
    return total


def _seed_of(*parts: int) -> int:
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def prepare(config: TrainConfig) -> None:
    """Seed the initial weights, and set how the CPU computes."""
    torch.manual_seed(_seed_of(config.seed))
    set_up_cpu(config)


def _not_finite(fit: Fit, number: int, step: Step[Batch], loss: float, grad_norm: float) -> str:
    ids = ", ".join(fit.data.ids[row] for row in step.batches[0].rows_B[:5])
    return (
        f"{fit.title}: step {number + 1} gave loss {loss} and gradient norm {grad_norm} (clips "
        f"{ids} ...); the last checkpoint is kept. Lower train.lr or the model's lr and run again "
        "under another model name"
    )


# --- what is kept of it --------------------------------------------------------------------------


def _resume(fit: Fit, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, Place]:
    """The steps that are done, and where the stream goes on."""
    newest = checkpoint.newest(fit.checkpoints, fit.partial)
    if newest is None:
        fit.journal.keep_until(0)
        return 0, Place(0, 0)
    step, cursor = checkpoint.restore(newest, model, optimizer, fit.fingerprint)
    fit.journal.keep_until(step)
    say(f"{fit.title}: going on after step {step} of {fit.num_steps}")
    if _wants_validation(fit, step):
        _validate(fit, model, step, Stop())
    return step, fit.reader.sampler.place(cursor)


def _save(
    fit: Fit, model: nn.Module, optimizer: torch.optim.Optimizer, done: int, cursor: Cursor
) -> None:
    checkpoint.save(fit.checkpoints, fit.partial, done, model, optimizer, cursor, fit.fingerprint)
    checkpoint.keep_last(fit.checkpoints, fit.partial, fit.config.keep_checkpoints)


def _log(fit: Fit, done: int, cursor: Cursor, log: dict[str, float]) -> None:
    if done % LOG_EVERY_STEPS == 0 or done in (1, fit.num_steps):
        epoch = round(cursor.epoch + cursor.position / len(fit.rows), 4)
        fit.journal.append({"step": done, "epoch": epoch, **log})


def _log_masked(fit: Fit, done: int, step: Step[Batch]) -> None:
    """Which clips of a step weighed nothing because their blocks are damaged: nobody could tell
    once those are mended."""
    if fit.data.config.on_damage == "mask":
        rows = np.concatenate(
            [batch.rows_B[batch.weights_B.numpy() == 0] for batch in step.batches]
        )
        if ids := fit.data.masked(rows):
            fit.journal.append({"step": done, "masked": ids})


def _validate(fit: Fit, model: nn.Module, done: int, stop: Stop) -> None:
    """Log loss and mAP of the validation clips, where there are any. Gives up when it is asked to
    stop: a resumed training makes up for it."""
    rows = fit.data.whole(fit.data.rows("valid"))
    if not len(rows) or stop.asked:
        return
    with closing(stop.until_asked(fit.data.batches(rows, fit.config.forward_size))) as batches:
        parts = [*batch_logits(model, batches, fit.device)]
    if stop.asked:
        return
    logits_NC, targets_NC = np.concatenate(parts), fit.data.targets(rows)
    tensors = torch.from_numpy(logits_NC), torch.from_numpy(targets_NC)
    loss = float(LOSSES[fit.data.task](*tensors).mean())
    scores = evaluate(logits_NC, targets_NC, fit.data.task)
    fit.journal.append({"step": done, "valid_loss": loss, "valid_map": scores["map"]})


def _wants_validation(fit: Fit, step: int) -> bool:
    """Whether that of a step that is done is missing."""
    if not (fit.ends_evaluated_epoch(step) and len(fit.data.rows("valid"))):
        return False
    records = fit.journal.read()
    return not any(record["step"] == step and "valid_loss" in record for record in records)
