"""From a job to committed weights: the bag by scikit-learn, everything else by the loop."""

from __future__ import annotations

import json
from typing import Any

import torch
from safetensors.numpy import save as arrays_to_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import nn

from configs.console import counted, say
from configs.data import WHICH
from configs.errors import ConfigError
from configs.models import AstModel, BagModel
from configs.schema import Config
from shards.atomic import Attempt, write_whole
from shards.audit import JOURNAL_NAME, SPEC_NAME, Spec
from shards.commit import CommitRecord, Written, ids_sha256
from shards.commit import fingerprint as fingerprint_of
from shards.stream.schedule import World
from train.board import refuse_without_tensorboard
from train.data import TokenData, job_data, say_masked
from train.jobs import CARD_NAME, STAGE, WEIGHTS_NAME, Job
from train.journal import Journal
from train.loop import prepare, train
from train.models import build
from train.ranks import Ranks, joined, refuse_other_configs
from train.sequential import NOTICE
from train.stop import Stop
from train.training import Fit
from train.validation import refuse_unlabelled
from train.world import Meeting


def train_and_commit(
    config: Config, job: Job, fingerprint: str, stop: Stop, world: World, meeting: Meeting
) -> None:
    """Train one model and commit its weights and card; goes on from its newest checkpoint. Of
    several ranks, the first one commits."""
    data = job_data(config, job)
    if isinstance(job.model, BagModel):
        weights = _fit_bag(job, data)
    else:
        if config.train.tensorboard:
            refuse_without_tensorboard()
        if meeting.ranks is None:
            meeting.ranks = meeting.enter_context(joined(world, config.train))
        refuse_other_configs(meeting.ranks, _meant(config, fingerprint))
        trained = _train(config, job, data, fingerprint, stop, meeting.ranks)
        weights = tensors_to_bytes(trained) if world.rank == 0 else b""
    if world.rank == 0:
        _commit(job, data, weights, fingerprint)
        say_masked(_num_masked(job, data), "train")


def _meant(config: Config, fingerprint: str) -> str:
    """What all ranks have to be started with: the recipe, and whatever decides when they meet."""
    settings = config.train.model_dump(mode="json", exclude={"device", "threads"})
    return fingerprint_of([fingerprint, settings, config.data.on_damage, config.model])


def _fit_bag(job: Job, data: TokenData) -> bytes:
    from train.bag import fit_bag

    assert isinstance(job.model, BagModel)
    weights = arrays_to_bytes(fit_bag(job.model, data))
    say(f"fit {job.name}: fitted on {len(data.rows('train'))} clips")
    return weights


def card(job: Job, data: TokenData) -> dict[str, Any]:
    """What a reader needs to use the weights: model, vocabulary, classes."""
    return {
        "model": job.model.model_dump(mode="json"),
        "k": data.codebook.k,
        "vocabulary": data.codebook.vocabulary,
        "codebooks": data.codebook.num_codebooks,
        "codebook": {"name": job.tokens, "fingerprint": data.codebook_fingerprint},
        "longest": data.longest,
        "task": data.task,
        "classes": [vars(name) for name in data.classes],
    }


def fit_title(job: Job) -> str:
    return f"fit {job.name}"


def _train(
    config: Config, job: Job, data: TokenData, fingerprint: str, stop: Stop, ranks: Ranks
) -> dict[str, torch.Tensor]:
    if isinstance(job.model, AstModel) and config.frames.kind != "fbank":
        say(
            f"warning: {fit_title(job)}: AST was made for Kaldi's filter banks (frames.kind=fbank "
            f"in another run=DIR), and scales frames as such; here they are {config.frames.kind}"
        )
    prepare(config.train)
    model = _built(job, data)
    fit = Fit(
        title=fit_title(job),
        directory=job.directory,
        partial=job.partial,
        fingerprint=fingerprint,
        data=data,
        config=job.settings(config.train),
        ranks=ranks,
    )
    if fit.config.heeds_validation and not fit.is_validated:
        raise ConfigError(
            "train",
            [
                "early_stop, select=best and schedule=plateau go by the validation clips, and "
                "there are none: see split"
            ],
        )
    refuse_unlabelled(job.layout, data)
    if ranks.is_first:
        write_whole(job.partial, job.directory / SPEC_NAME, _spec(config, job, fit).to_json())
    _announce(fit, model)
    return train(fit, model, stop)


def _announce(fit: Fit, model: nn.Module) -> None:
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    where = counted(fit.ranks.count, "rank") + f", {fit.ranks.device.type}"
    say(f"{fit.title}: {num_parameters:,} parameters on {where}, {fit.num_steps} steps")
    if fit.data.config.reader == "webdataset":
        say(NOTICE)


def _spec(config: Config, job: Job, fit: Fit) -> Spec:
    """What `python -m shards audit` computes the steps from."""
    return Spec(
        tokens=job.tokens,
        split=config.split.model_dump(mode="json"),
        fold=job.fold,
        seed=fit.config.seed,
        batch_size=fit.config.batch_size,
        num_epochs=fit.config.epochs,
        data=config.data.model_dump(mode="json", include=config.data.deciding | WHICH),
        fingerprint=fit.reader.sampler.fingerprint,
        reads="frames" if fit.data.reads_frames(fit.config) else "tokens",
    )


def _built(job: Job, data: TokenData) -> nn.Module:
    """Raises ConfigError, with the model's name, for one that these clips do not fit into."""
    try:
        return build(job.model, data.seen, len(data.classes), data.longest)
    except ConfigError as error:
        raise ConfigError(f"models.{job.model_name}", error.faults) from None


def _num_masked(job: Job, data: TokenData) -> int:
    """Training clips that weighed nothing, in some step or in all of it."""
    if isinstance(job.model, BagModel):
        return len(data.masked(data.rows("train")))
    records = Journal(job.directory / JOURNAL_NAME, job.partial).read()
    return len({clip_id for record in records for clip_id in record.get("masked", ())})


def _commit(job: Job, data: TokenData, weights: bytes, fingerprint: str) -> None:
    with Attempt(job.partial, "model") as attempt:
        attempt.path(WEIGHTS_NAME).write_bytes(weights)
        attempt.path(CARD_NAME).write_text(json.dumps(card(job, data), indent=2) + "\n")
        files = tuple(
            Written.of(attempt, name).publish(job.layout.root, job.directory / name)
            for name in (WEIGHTS_NAME, CARD_NAME)
        )
    rows, num_masked = data.rows("train"), _num_masked(job, data)
    job.log.commit(
        CommitRecord(
            stage=STAGE,
            name=job.name,
            shard=0,
            fingerprint=fingerprint,
            counts={"clips": len(rows)} | ({"masked": num_masked} if num_masked else {}),
            ids_sha256=ids_sha256(data.ids[row] for row in rows),
            files=files,
        )
    )
