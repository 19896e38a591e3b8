"""The training loop: exact accumulation, checkpoints, and the same weights after any kill.

Nothing here depends on what happened before a step except the learner, the position in the stream
and the scores of validations: the learning rate is a function of the step (and of those), the clips
of the position, and dropout's seed of (seed, step, micro-batch, rank). So a resumed run computes
what the undisturbed one computes. Ranks do the same steps, each with a part of every batch.
"""

from __future__ import annotations

import hashlib
import math
import time
from contextlib import closing

import numpy as np
import torch
from torch import nn

from configs.console import Progress, counted, say
from configs.errors import Preempted, TrainingFailed
from configs.schema import TrainConfig
from shards.stream.schedule import Place
from shards.stream.stream import Step
from train import checkpoint
from train.batches import Batch, padding_share
from train.device import autocast, set_up_cpu
from train.failures import fitting, no_number, too_large_state, too_many_clips
from train.history import History
from train.learner import Learner, build_learner
from train.live import Live, gradient_flow
from train.optim import learning_rate
from train.ranks import averaging, whole
from train.stop import Stop
from train.training import Fit
from train.validation import validate

LOG_EVERY_STEPS = 10
NAMED = 5  # clips, or parameters, of a message


def train(fit: Fit, model: nn.Module, stop: Stop) -> dict[str, torch.Tensor]:
    """Train to the end, from the newest checkpoint if there is one; returns the weights, whole, on
    the CPU of rank 0, and none on the others.

    Raises Preempted after a signal to any rank, with a checkpoint of the step in which it came, or
    after which it came in a validation or a wait for data (where nothing is left to do, the
    training ends); TrainingFailed where the loss stops being a number, or something does not fit
    into memory, with the last good checkpoint kept; IntegrityError where that which scored best is
    not whole.
    """
    with fitting(too_large_state(fit.title)):
        learner = build_learner(fit.config, model, fit.ranks)
        done, place, history = _resume(fit, learner)
    with (
        stop.deferring(),
        Progress(fit.title, fit.num_steps, "clips", done) as progress,
        # Closed also where an error keeps its frames alive.
        closing(stop.until_asked(fit.reader.steps(place))) as steps,
    ):
        _catch_up(fit, learner, done, history, stop)
        after, live = None, Live(fit.ranks, learner.model)
        for step in fit.ranks.in_step(steps, fit.num_steps - done):
            if history.is_over(fit.config):
                break
            log = _step(fit, learner, done, step, history)
            done, after = done + 1, step.after
            _log(fit, done, step, log)
            if fit.ends_evaluated_epoch(done):
                _validate(fit, learner, done, history, stop)
            if done == fit.num_steps or fit.kept.is_due(done, history):  # with its own score
                fit.kept.save(learner, done, after, history)
            progress.advance(int(log["clips"]), f"{live.note(step, log)}{_last_score(history)}")
        stop.asked = fit.ranks.any(stop.asked)  # all ranks leave together, also between models
        if stop.asked and _is_unfinished(fit, done, history):
            if after is not None:  # else nothing is done that was not saved
                fit.kept.save(learner, done, after, history)
            raise Preempted(f"{fit.title}: saved step {done} of {fit.num_steps}; run again")
    if done < fit.num_steps:
        _say_early_end(fit, done, history)
    return _chosen(fit, learner, history)


def _last_score(history: History) -> str:
    *_, last = history.scores.values() or (None,)
    return "" if last is None else f", valid mAP {last:.1%}"


def _say_early_end(fit: Fit, done: int, history: History) -> None:
    """Raises TrainingFailed where nobody wanted it."""
    if not history.is_over(fit.config):
        raise TrainingFailed(
            f"{fit.title}: there was nothing more to read after step {done} of {fit.num_steps}; "
            "run the same command again"
        )
    patience = counted(fit.config.early_stop or 0, "validation")
    say(f"{fit.title}: ended after step {done}: {patience} brought no higher mAP")


def _is_unfinished(fit: Fit, done: int, history: History) -> bool:
    if _lacks_validation(fit, done, history):
        return True
    return done < fit.num_steps and not history.is_over(fit.config)


def _chosen(fit: Fit, learner: Learner, history: History) -> dict[str, torch.Tensor]:
    if (best := fit.kept.best(history)) is not None:
        checkpoint.restore(best, learner)
        step = checkpoint.step_of(best)
        say(f"{fit.title}: step {step} scored best, mAP {100 * history.scores[step]:.2f} %")
    return learner.result(fit.ranks.is_first)


def _step(
    fit: Fit, learner: Learner, number: int, step: Step[Batch], history: History
) -> dict[str, float]:
    """One optimizer update over a global batch, in micro-batches of the configured size."""
    started_s = time.monotonic()
    reductions = history.num_reductions(fit.config.plateau_patience)
    lr = learning_rate(number, fit.num_steps, fit.config, reductions)
    for group in learner.optimizer.param_groups:
        group["lr"] = lr
    loss = accumulate(fit, learner.model, step, number)
    if number == 0 or fit.ends_evaluated_epoch(number + 1):
        fit.log({"step": number + 1, "gradient_flow": gradient_flow(learner.model)})
    parameters = learner.model.parameters()
    with fitting(too_large_state(fit.title)):
        grad_norm = float(whole(nn.utils.clip_grad_norm_(parameters, fit.config.clip_norm)))
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            found = f"gave loss {loss} and gradient norm {grad_norm}"
            raise TrainingFailed(_not_finite(fit, learner.model, step, number, found))
        learner.update(number + 1)
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
    """Add the gradient of the mean loss over a global batch, one micro-batch at a time.

    Every micro-batch divides by the clips of the whole batch that count, on all ranks, so uneven
    ones weigh right and a masked clip weighs nothing; ranks average what they have only once, with
    the last. Returns the mean loss over the global batch.
    """
    ranks = fit.ranks
    total = torch.zeros((), dtype=torch.float64, device=ranks.device)  # asked for once, at the end
    (num_counted,) = ranks.total(sum(float(batch.weights_B.sum()) for batch in step.batches))
    for micro, batch in enumerate(step.batches, 1):
        _seed_dropout(fit, number, micro)
        is_last = micro == len(step.batches)
        with averaging(model, is_last), fitting(_does_not_fit(fit, batch)):
            losses_B = _losses(fit, model, batch.to(ranks.device))
            loss = losses_B.sum() / max(1.0, num_counted)
            (loss * ranks.count).backward()
        total += loss.detach()
    return ranks.total(float(total))[0]


def _losses(fit: Fit, model: nn.Module, batch: Batch) -> torch.Tensor:
    """Of every clip, [B]; those that do not count have none."""
    with autocast(fit.config, fit.ranks.device):
        logits_BC = model(batch.inputs_BTN, batch.lengths_B, batch.mix)
    return fit.loss(logits_BC.float(), batch.targets_BC) * batch.weights_B


def _does_not_fit(fit: Fit, batch: Batch) -> str:
    num_clips, num_places, _ = batch.inputs_BTN.shape
    return too_many_clips(fit.title, num_clips, f"of {num_places} places")


def _seed_dropout(fit: Fit, number: int, micro: int) -> None:
    torch.manual_seed(_seed_of(fit.config.seed, number, micro, fit.ranks.world.rank))


def _seed_of(*parts: int) -> int:
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def prepare(config: TrainConfig) -> None:
    """Seed the initial weights, and set how the CPU computes."""
    torch.manual_seed(_seed_of(config.seed))
    set_up_cpu(config)


def _not_finite(fit: Fit, model: nn.Module, step: Step[Batch], number: int, found: str) -> str:
    """Which clips of this rank have a loss that is no number, and which parameters a gradient."""
    clips: list[int] = []
    for micro, batch in enumerate(step.batches, 1):
        _seed_dropout(fit, number, micro)
        with torch.no_grad():
            losses_B = _losses(fit, model, batch.to(fit.ranks.device))
        clips += batch.rows_B[~losses_B.isfinite().cpu().numpy()].tolist()
    ids = ", ".join(fit.data.ids[row] for row in clips[:NAMED]) or "none by itself"
    flow = gradient_flow(model).items()
    odd = [name for name, (_, largest) in flow if not math.isfinite(largest)]
    what = (
        f"step {number + 1} {found} (clips: {ids}; gradients: {', '.join(odd[:NAMED]) or 'none'})"
    )
    return no_number(fit.title, what)


# --- what is kept of it --------------------------------------------------------------------------


def _resume(fit: Fit, learner: Learner) -> tuple[int, Place, History]:
    """The steps that are done, where the stream goes on, and how validations went."""
    found = fit.kept.newest()
    if fit.ranks.is_first:
        fit.journal.keep_until(*((found[1].step, found[1].scores) if found else (0, ())))
    if found is None:
        return 0, Place(0, 0), History()
    path, state = found
    checkpoint.restore(path, learner)
    say(f"{fit.title}: going on after step {state.step} of {fit.num_steps}")
    return state.step, fit.reader.sampler.place(state.cursor), History(state.scores)


def _catch_up(fit: Fit, learner: Learner, done: int, history: History, stop: Stop) -> None:
    """Do the validation that a signal cut short, and look whether the best checkpoint is there."""
    if _lacks_validation(fit, done, history):
        _validate(fit, learner, done, history, stop)
    fit.kept.warn_of_best(history)


def _log(fit: Fit, done: int, step: Step[Batch], log: dict[str, float]) -> None:
    if done % LOG_EVERY_STEPS == 0 or done in (1, fit.num_steps):
        epoch = round(step.after.epoch + step.after.position / len(fit.rows), 4)
        fit.log({"step": done, "epoch": epoch, **log})
    _log_masked(fit, done, step)


def _log_masked(fit: Fit, done: int, step: Step[Batch]) -> None:
    """Which clips of a step weighed nothing because their blocks are damaged: nobody could tell
    once those are mended."""
    if fit.data.config.on_damage == "mask":
        weightless = [batch.rows_B[batch.weights_B.numpy() == 0] for batch in step.batches]
        own = np.concatenate(weightless)
        damaged = fit.ranks.concatenated(own[~np.isin(own, fit.data.whole(own))])
        if len(damaged):
            ids = [fit.data.ids[row] for row in np.unique(damaged).tolist()]
            fit.log({"step": done, "masked": ids}, lasts=True)


def _validate(fit: Fit, learner: Learner, done: int, history: History, stop: Stop) -> None:
    """Log how the validation clips fare, where there are any. Gives up when it is asked to stop: a
    resumed training makes up for it."""
    if not fit.is_validated:
        return
    at_once = fit.config.forward_size
    with learner.averaged(), fitting(too_many_clips(fit.title, at_once, "of a validation")):
        found = validate(learner.model, fit.data, fit.config, fit.ranks, stop)
    if found is None:
        return
    if not math.isfinite(found["valid_loss"]):
        found_none = f"the validation after step {done} gave logits that are no numbers"
        raise TrainingFailed(no_number(fit.title, found_none))
    fit.log({"step": done, **found})
    history.scores[done] = found["valid_map"]


def _lacks_validation(fit: Fit, step: int, history: History) -> bool:
    """Whether that of a step that is done is missing."""
    return fit.ends_evaluated_epoch(step) and fit.is_validated and step not in history.scores
