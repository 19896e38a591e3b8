"""`train fit`: train every model that the config names, and commit each one."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import torch
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file as save_tensors
from torch import nn

from configs.console import say
from configs.load import dump_config
from configs.schema import BagModel, Config, NeuralModel
from shards.atomic import Attempt, sweep, write_whole
from shards.commit import CommitRecord, ids_sha256, publish
from shards.events import timed
from shards.layout import Layout
from shards.lock import hold
from train.bag import fit_bag
from train.data import TokenData, open_data
from train.jobs import STAGE, Job, jobs
from train.loop import Fit, choose_device, prepare, train
from train.models import BUILDERS

FORMAT = 1
WEIGHTS_NAME = "model.safetensors"
CARD_NAME = "model.json"
# What may differ between two runs of one recipe: it decides speed and safety, not weights.
FREE_SETTINGS = {"device", "threads", "checkpoint_every_steps", "keep_checkpoints", "epochs", "lr"}


def run(config: Config) -> int:
    """Train what is not trained yet; a killed run goes on from its newest checkpoint."""
    layout = Layout(config.run)
    with timed(layout, "fit"):
        for job in jobs(config):
            fit_job(config, job)
        write_whole(layout.partial, layout.config, dump_config(config).encode())
    return 0


def fit_job(config: Config, job: Job) -> None:
    """Train and commit one model, unless it is committed."""
    data = open_data(job.layout, job.tokens, config.split, job.fold)
    with hold(job.directory / "fit.lock"):
        fingerprint = job.log.open(recipe(config, job, data))
        if job.record() is not None:
            say(f"fit {job.name}: committed, nothing to do")
            return
        sweep(job.partial)
        with Attempt(job.partial, "model") as attempt:
            weights = attempt.path(WEIGHTS_NAME)
            if isinstance(job.config, BagModel):
                save_arrays(fit_bag(job.config, data), weights)
                say(f"fit {job.name}: fitted on {len(data.rows('train'))} clips")
            else:
                save_tensors(_train(config, job, job.config, data, fingerprint), weights)
            attempt.path(CARD_NAME).write_text(json.dumps(card(job, data), indent=2) + "\n")
            _commit(job, data, attempt, fingerprint)


def recipe(config: Config, job: Job, data: TokenData) -> dict[str, Any]:
    """Everything that decides the weights, but for the kernels that round."""
    return {
        "format": FORMAT,
        "tokens": data.reader.fingerprint,
        "codebook": data.codebook_fingerprint,
        "split": config.split.model_dump(mode="json", exclude={"folds"}),
        "fold": job.fold,
        "model": job.config.model_dump(mode="json"),
        "train": _training_recipe(config, job),
    }


def _training_recipe(config: Config, job: Job) -> dict[str, Any]:
    if not isinstance(job.config, NeuralModel):
        return {}
    settings = config.train.model_dump(mode="json", exclude=FREE_SETTINGS)
    return settings | {"epochs": _epochs(config, job.config), "lr": _lr(config, job.config)}


def card(job: Job, data: TokenData) -> dict[str, Any]:
    """What a reader needs to use the weights: model, vocabulary, classes."""
    return {
        "model": job.config.model_dump(mode="json"),
        "k": data.codebook.k,
        "codebook": {"name": job.tokens, "fingerprint": data.codebook_fingerprint},
        "longest": data.longest,
        "task": data.task,
        "classes": [vars(name) for name in data.classes],
    }


def _train(
    config: Config, job: Job, section: NeuralModel, data: TokenData, fingerprint: str
) -> dict[str, torch.Tensor]:
    prepare(config.train)
    model = build(section, data)
    fit = Fit(
        title=f"fit {job.name}",
        directory=job.directory,
        partial=job.partial,
        recipe=fingerprint,
        data=data,
        config=config.train,
        lr=_lr(config, section),
        epochs=_epochs(config, section),
        device=choose_device(config.train.device),
    )
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    say(f"{fit.title}: {num_parameters:,} parameters on {fit.device}, {fit.num_steps} steps")
    train(fit, model)
    return {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}


def build(section: Any, data: TokenData) -> nn.Module:
    return BUILDERS[section.kind](section, data.codebook.k, len(data.classes), data.longest)


def _commit(job: Job, data: TokenData, attempt: Attempt, fingerprint: str) -> None:
    files = tuple(
        publish(attempt, job.layout.root, name, partial(_fixed, job, name))
        for name in (WEIGHTS_NAME, CARD_NAME)
    )
    job.log.commit(
        CommitRecord(
            stage=STAGE,
            name=job.name,
            shard=0,
            fingerprint=fingerprint,
            counts={"clips": len(data.rows("train"))},
            ids_sha256=ids_sha256(data.ids[row] for row in data.rows("train")),
            files=files,
        )
    )


def _fixed(job: Job, name: str, _sha256: str) -> Any:
    return job.directory / name


def _lr(config: Config, section: NeuralModel) -> float:
    return section.lr or config.train.lr


def _epochs(config: Config, section: NeuralModel) -> int:
    return section.epochs or config.train.epochs
