"""`train fit`: train every model that the config names, and commit each one.

What is committed is seen before torch is imported, so a second `fit` answers at once.
"""

from __future__ import annotations

from typing import Any

from configs.console import say
from configs.load import dump_config
from configs.schema import Config, NeuralModel
from shards.atomic import sweep, write_whole
from shards.codebook import open_codebook
from shards.events import timed
from shards.layout import Layout
from shards.lock import hold
from shards.seal import open_seal
from shards.tokens import STAGE as TOKENS
from train.jobs import Job, jobs

FORMAT = 1
# Settings of `train` that decide speed and safety but no weights, or that a model overrides.
FREE_SETTINGS = {
    *("device", "threads", "checkpoint_every_steps", "keep_checkpoints", "evaluate_every_epochs"),
    *("epochs", "lr"),
}


def run(config: Config) -> int:
    """Train what is not trained yet; a killed run goes on from its newest checkpoint."""
    layout = Layout(config.run)
    with timed(layout, "fit"):
        for job in jobs(config):
            with hold(job.directory / "fit.lock"):
                fit_job(config, job)
                write_whole(job.partial, layout.config, dump_config(config).encode())
    return 0


def fit_job(config: Config, job: Job) -> None:
    """Train and commit one model, unless it is committed."""
    fingerprint = job.log.open(recipe(config, job))
    if job.record() is not None:
        say(f"fit {job.name}: committed, nothing to do")
        return
    from train.trainers import train_and_commit  # torch and transformers take ten seconds

    sweep(job.partial)
    train_and_commit(config, job, fingerprint)


def recipe(config: Config, job: Job) -> dict[str, Any]:
    """Everything that decides the weights, but for the kernels that round."""
    return {
        "format": FORMAT,
        "tokens": open_seal(job.layout, TOKENS, job.tokens).fingerprint,
        "codebook": open_codebook(job.layout, job.tokens)[1],
        "split": config.split.model_dump(mode="json", exclude={"folds"}),
        "fold": job.fold,
        "model": job.config.model_dump(mode="json"),
        "train": _training_recipe(config, job),
    }


def _training_recipe(config: Config, job: Job) -> dict[str, Any]:
    if not isinstance(job.config, NeuralModel):
        return {}
    settings = config.train.model_dump(mode="json", exclude=FREE_SETTINGS)
    return settings | {"epochs": job.epochs(config.train), "lr": job.lr(config.train)}
