"""Which models a config asks for, what they are called, and what decides their weights."""

from __future__ import annotations

from typing import Any

import pytest

from configs.errors import ConfigError
from configs.load import merge
from configs.schema import Config
from shards.commit import fingerprint
from tests.conftest import MakeConfig
from train.jobs import jobs, recipe


@pytest.mark.parametrize(
    ("over", "names"),
    [
        ({}, ["bag", "linear"]),
        ({"codebook": {"name": "k8"}}, ["k8-bag", "k8-linear"]),
        ({"split": {"folds": [1, 3]}, "model": ["bert"]}, ["fold1-bert", "fold3-bert"]),
        (
            {"split": {"folds": [2]}, "codebook": {"name": "k8"}},
            ["k8-fold2-bag", "k8-fold2-linear"],
        ),
    ],
)
def test_one_job_a_codebook_and_model(
    over: dict[str, Any], names: list[str], make_config: MakeConfig
) -> None:
    found = list(jobs(make_config(**over)))
    assert [job.name for job in found] == names
    assert [job.directory.name for job in found] == names


def test_without_a_model_the_known_ones_are_named(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"model=NAME \(known: bag, linear, lstm, bert\)"):
        list(jobs(make_config(model=[])))


def test_a_model_may_have_its_own_rate_and_epochs(make_config: MakeConfig) -> None:
    config = make_config(models={"linear": {"lr": 0.5, "epochs": 7}}, train={"lr": 0.1})
    bag, linear = jobs(config)
    found = [job.settings(config.train) for job in (bag, linear)]
    assert [(own.lr, own.epochs) for own in found] == [(0.1, 2), (0.5, 7)]
    assert {own.batch_size for own in found} == {16}


def stamp(config: Config, **over: Any) -> str:
    changed = Config.model_validate(merge(config.model_dump(mode="json"), over))
    (job,) = [job for job in jobs(changed) if job.model_name == "linear"]
    return fingerprint(recipe(changed, job))


@pytest.mark.parametrize(
    "over",
    [
        {"train": {"device": "auto", "threads": 2, "checkpoint_every_steps": 3}},
        {"train": {"keep_checkpoints": 9, "evaluate_every_epochs": 2, "micro_batch_size": 3}},
        {"train": {"tensorboard": True, "compile": True}},
        {"cluster": {"kind": "local"}, "quarantine": {"max_share": 0.9}},
        {"models": {"bert": {"width": 32}}},
    ],
)
def test_speed_and_safety_decide_no_weights(over: dict[str, Any], finished: Config) -> None:
    assert stamp(finished, **over) == stamp(finished)


@pytest.mark.parametrize(
    "over",
    [
        {"train": {"lr": 0.5}},
        {"train": {"epochs": 3}},
        {"train": {"seed": 1}},
        {"train": {"batch_size": 3}},
        {"train": {"mixup": 0.2}},
        {"train": {"span_masks": {"count": 1}}},
        {"train": {"augment": {"gain_db": 6}}},
        {"models": {"linear": {"width": 17}}},
        {"models": {"linear": {"epochs": 3}}},
        {"split": {"valid_share": 0.3}},
    ],
)
def test_everything_else_does(over: dict[str, Any], finished: Config) -> None:
    assert stamp(finished, **over) != stamp(finished)
