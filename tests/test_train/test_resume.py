"""Stopped at any step and run again: the same weights, bit for bit, and no step logged twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from configs.errors import ConfigError, Preempted, RecipeMismatch
from configs.load import dump_config, load_config
from configs.models import BertModel, LinearModel, LstmModel
from configs.schema import Config
from shards.commit import StageLog
from shards.layout import Layout
from tests.rank_worker import examples, watched
from tests.test_train.conftest import with_config
from train import checkpoint, fit, loop, validation
from train.data import TokenData
from train.journal import TIMES, Journal
from train.loop import prepare, train
from train.models import build
from train.stop import Stop
from train.training import Fit

MakeData = Callable[..., TokenData]
MakeFit = Callable[..., Fit]
CopyRun = Callable[..., Config]
ROOT = Path(fit.__file__).parents[1]
SECTIONS = [
    BertModel(kind="bert", layers=1, width=8, heads=2, max_positions=32, dropout=0.3),
    LstmModel(kind="lstm", width=8, hidden=8, dropout=0.3, bag_path=True),
    LinearModel(kind="linear", width=8, dropout=0.3),
]


def run(one: Fit, section: Any, at_step: int | None = None, act: Any = None) -> torch.Tensor:
    """Train to the end, doing something in the middle of one step; returns the weights."""
    prepare(one.config)
    data = one.data
    model = build(section, data.seen, len(data.classes), data.longest)
    per_step = -(-one.config.batch_size // one.config.forward_size)
    forwards = iter(range(1, 10_000))

    def hook(module: nn.Module, _: Any) -> None:
        if module.training and next(forwards) == (at_step or 0) * per_step - 1:
            act()

    model.register_forward_pre_hook(hook)
    train(one, model, Stop())
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def die() -> None:
    raise ZeroDivisionError("stands for kill -9: nothing is saved")


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.kind)
def test_a_run_stopped_anywhere_ends_with_the_same_weights(
    section: Any, random_data: MakeData, make_fit: MakeFit
) -> None:
    data = random_data((9, 3, 0))
    settings = {
        "epochs": 3,
        "batch_size": 4,
        "micro_batch_size": 2,
        "checkpoint_every_steps": 50,
        "mixup": 0.4,
    }
    whole = run(make_fit(data, **settings), section)
    for stop in range(1, 7):
        place = f"stopped{stop}"
        with pytest.raises(Preempted, match=f"saved step {stop} of 7; run again"):
            run(make_fit(data, directory=place, **settings), section, stop, terminate)
        again = make_fit(data, directory=place, **settings)
        assert (
            checkpoint.newest(again.checkpoints, again.partial)
            == again.checkpoints / f"step-{stop:06d}"
        )
        assert torch.equal(run(again, section), whole)
        records = [r for r in again.journal.read() if "gradient_flow" not in r]
        steps = [(r["step"], "loss" in r) for r in records]
        assert steps == [(1, True), (3, False), (5, False), (7, True), (7, False)]


@pytest.mark.parametrize("died", range(1, 8))
def test_a_run_killed_anywhere_goes_on_from_its_checkpoint(
    died: int, random_data: MakeData, make_fit: MakeFit
) -> None:
    data = random_data((9, 3, 0))
    settings = {"epochs": 3, "batch_size": 4, "micro_batch_size": 2, "checkpoint_every_steps": 3}
    undisturbed = make_fit(data, **settings)
    whole = run(undisturbed, SECTIONS[2])
    with pytest.raises(ZeroDivisionError):
        run(make_fit(data, directory="died", **settings), SECTIONS[2], died, die)
    again = make_fit(data, directory="died", **settings)
    assert torch.equal(run(again, SECTIONS[2]), whole)
    untimed = [
        [
            {name: value for name, value in record.items() if name not in TIMES}
            for record in one.journal.read()
        ]
        for one in (again, undisturbed)
    ]
    assert untimed[0] == untimed[1]


def test_handlers_of_signals_are_put_back(random_data: MakeData, make_fit: MakeFit) -> None:
    before = signal.getsignal(signal.SIGTERM)
    run(make_fit(random_data((4, 0, 0))), SECTIONS[2])
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_validation_that_dies_leaves_the_checkpoint_before(
    random_data: MakeData, make_fit: MakeFit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is saved with the score of its step, or not at all; the resumed training does both."""
    data = random_data((8, 4, 0))
    settings = {"epochs": 3, "checkpoint_every_steps": 2}
    whole = make_fit(data, **settings)
    weights = run(whole, SECTIONS[2])
    usual = loop._validate
    for died in (2, 4, 6):
        place = f"died{died}"

        def validate(one: Fit, learner: Any, done: int, *rest: Any, died: int = died) -> None:
            if done == died:
                die()
            usual(one, learner, done, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(loop, "_validate", validate)
            with pytest.raises(ZeroDivisionError):
                run(make_fit(data, directory=place, **settings), SECTIONS[2])
        again = make_fit(data, directory=place, **settings)
        before = again.checkpoints / f"step-{died - 2:06d}" if died > 2 else None
        assert checkpoint.newest(again.checkpoints, again.partial) == before
        assert torch.equal(run(again, SECTIONS[2]), weights)
        valid = [[r for r in one.journal.read() if "valid_map" in r] for one in (whole, again)]
        assert valid[0] == valid[1]
        assert len(valid[0]) == 3


def test_a_signal_in_a_validation_ends_it_and_saves(
    random_data: MakeData, make_fit: MakeFit, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = random_data((8, 6, 0))
    settings = {"epochs": 3, "batch_size": 4, "micro_batch_size": 2, "checkpoint_every_steps": 50}
    whole = make_fit(data, **settings)
    weights = run(whole, SECTIONS[2])
    batches: list[int] = []

    def stop_at_the_second(*args: Any) -> Iterator[Any]:
        for logits_BC in usual(*args):
            batches.append(len(logits_BC))
            if len(batches) == 2:
                terminate()
            yield logits_BC

    usual = validation.batch_logits
    with monkeypatch.context() as patch:
        patch.setattr(validation, "batch_logits", stop_at_the_second)
        with pytest.raises(Preempted, match="saved step 2 of 6"):
            run(make_fit(data, directory="stopped", **settings), SECTIONS[2])
    assert batches == [2, 2], "the third batch was not waited for"
    again = make_fit(data, directory="stopped", **settings)
    assert checkpoint.newest(again.checkpoints, again.partial) is not None
    assert torch.equal(run(again, SECTIONS[2]), weights)
    valid = [[r for r in one.journal.read() if "valid_map" in r] for one in (whole, again)]
    assert valid[0] == valid[1]


def test_a_signal_in_a_validation_that_is_made_up_for_ends_it_too(
    random_data: MakeData, make_fit: MakeFit, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, settings = random_data((8, 6, 0)), {"epochs": 3, "checkpoint_every_steps": 50}
    weights = run(make_fit(data, **settings), SECTIONS[2])

    def stop_at_once(*args: Any) -> Iterator[Any]:
        terminate()
        yield from usual(*args)

    usual = validation.batch_logits
    with monkeypatch.context() as patch:
        patch.setattr(validation, "batch_logits", stop_at_once)
        for _ in range(2):
            with pytest.raises(Preempted, match="saved step 2 of 6"):
                run(make_fit(data, directory="stopped", **settings), SECTIONS[2])
    again = make_fit(data, directory="stopped", **settings)
    assert not [r for r in again.journal.read() if "valid_map" in r]
    assert torch.equal(run(again, SECTIONS[2]), weights)


def test_a_validation_is_made_up_for_once_in_the_journal(
    random_data: MakeData, make_fit: MakeFit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the training that made up for it was killed before its next checkpoint."""
    data, settings = random_data((8, 6, 0)), {"epochs": 3, "checkpoint_every_steps": 50}
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_validate", lambda *_: terminate())
        with pytest.raises(Preempted, match="saved step 2 of 6"):
            run(make_fit(data, directory="died", **settings), SECTIONS[2])
    with pytest.raises(ZeroDivisionError):
        run(make_fit(data, directory="died", **settings), SECTIONS[2], 2, die)
    again = make_fit(data, directory="died", **settings)
    run(again, SECTIONS[2])
    assert [r["step"] for r in again.journal.read() if "valid_map" in r] == [2, 4, 6]


@pytest.mark.parametrize("reads", [{}, {"lengths": "bucketed"}, {"tail": "pad"}])
def test_with_another_micro_batch_the_same_examples_come(
    reads: dict[str, str], random_data: MakeData, make_fit: MakeFit, tmp_path: Path
) -> None:
    """What a training may be told that did not fit into memory."""
    data, settings = random_data((13, 0, 0)), {"epochs": 4, "checkpoint_every_steps": 3}
    data = with_config(data, **reads)
    for name, micro in (("whole", 4), ("died", 4), ("resumed", 1)):
        (tmp_path / name).mkdir()
        place = "one" if name == "whole" else "other"
        one = make_fit(data, directory=place, micro_batch_size=micro, **settings)
        one = replace(one, data=data)
        with watched(tmp_path / name):
            if name == "died":
                with pytest.raises(ZeroDivisionError):
                    run(one, SECTIONS[2], 8, die)
            else:
                run(one, SECTIONS[2])
    seen = examples(tmp_path / "whole")
    assert len(seen) == one.num_steps
    assert min(examples(tmp_path / "resumed")) == 6
    assert examples(tmp_path / "died", tmp_path / "resumed") == seen


def stop_in_the_first_step(config: Config) -> None:
    def log_and_stop(*args: Any) -> None:
        terminate()
        log(*args)

    log = loop._log
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_log", log_and_stop)
        with pytest.raises(Preempted, match="saved step 1 of"):
            fit.run(config)


def test_a_signal_while_a_step_is_saved_stops_after_it(
    random_data: MakeData, make_fit: MakeFit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is said to be saved is saved."""

    def save_and_stop(*args: Any) -> None:
        save(*args)
        terminate()

    save = checkpoint.save
    one = make_fit(random_data((20, 0, 0)), checkpoint_every_steps=2)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save_and_stop)
        with pytest.raises(Preempted, match="saved step 2 of 10"):
            run(one, SECTIONS[2])
    assert checkpoint.newest(one.checkpoints, one.partial) == one.checkpoints / "step-000002"


def test_other_settings_in_the_middle_are_refused_by_name(copy_run: CopyRun) -> None:
    config = long_job(copy_run)
    checkpoints = Layout(config.run).model("long") / "checkpoints"
    recipe = StageLog(Layout(config.run), "fit", "long").directory / "recipe.json"

    stop_in_the_first_step(config)
    bound = recipe.read_bytes()
    other = config.model_copy(update={"train": config.train.model_copy(update={"batch_size": 8})})
    with pytest.raises(RecipeMismatch, match=r"batch_size: 16 there, 8 now(.|\n)*remove .*chec"):
        fit.run(other)
    assert recipe.read_bytes() == bound
    shutil.rmtree(checkpoints)
    stop_in_the_first_step(other)
    assert recipe.read_bytes() != bound


def long_job(copy_run: CopyRun) -> Config:
    """`linear` for 900 short steps under a name of its own, in a run without that model."""
    models = {"long": {"kind": "linear", "width": 8, "dropout": 0.3, "epochs": 300}}
    train = {"epochs": 1, "batch_size": 16, "device": "cpu", "threads": 1, "lr": 1e-3}
    train |= {"evaluate_every_epochs": 5000, "checkpoint_every_steps": 100_000}
    return copy_run(models=models, model=("long",), train=train)


def test_sigterm_saves_and_exits_75_and_the_same_command_goes_on(
    copy_run: CopyRun, tmp_path: Path
) -> None:
    config, whole = long_job(copy_run), long_job(copy_run)
    file = tmp_path / "long.yaml"
    file.write_text(dump_config(config))
    directory = Layout(config.run).model("long")
    command = [sys.executable, "-m", "train", "fit", str(file)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline_s = time.monotonic() + 60
    while not Journal(directory / "metrics.jsonl", directory).read():
        assert time.monotonic() < deadline_s
        assert process.poll() is None, "it died, or ended before the test was quick enough"
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    newest = checkpoint.newest(directory / "checkpoints", directory)
    assert newest is not None
    saved = json.loads((newest / "state.json").read_text())["step"]
    assert f"saved step {saved} of" in errors
    logged = [record["step"] for record in Journal(directory / "metrics.jsonl", directory).read()]
    assert max(logged) <= saved < max(logged) + 10
    assert fit.run(config) == 0
    assert fit.run(whole) == 0
    name = "model.safetensors"
    assert (directory / name).read_bytes() == (Layout(whole.run).model("long") / name).read_bytes()
    assert StageLog(Layout(config.run), "fit", "long").record(0)


def test_other_settings_are_refused_and_free_ones_are_not(copy_run: CopyRun) -> None:
    config = copy_run()
    weights = Layout(config.run).model("linear") / "model.safetensors"
    before = weights.read_bytes()
    train = config.train.model_dump()
    free = train | {"checkpoint_every_steps": 1, "keep_checkpoints": 1, "threads": None}
    assert fit.run(Config.model_validate(config.model_dump() | {"train": free})) == 0
    other = Config.model_validate(config.model_dump() | {"train": train | {"batch_size": 8}})
    with pytest.raises(RecipeMismatch, match=r"train.batch_size: 16 there, 8 now"):
        fit.run(other)
    assert weights.read_bytes() == before


def test_a_refused_config_replaces_nothing(copy_run: CopyRun) -> None:
    """The bag does not look at the learning rate; the run must not stand for one that `linear`
    refuses."""
    config = copy_run()
    saved = Layout(config.run).config
    before = saved.read_bytes()
    rate = config.train.model_copy(update={"lr": 0.7})
    with pytest.raises(RecipeMismatch, match="train.lr"):
        fit.run(config.model_copy(update={"train": rate}))
    assert saved.read_bytes() == before


def test_the_saved_config_keeps_what_no_model_was_checked_against(copy_run: CopyRun) -> None:
    config = copy_run()
    audio = config.audio.model_copy(update={"sample_rate_hz": 16_000})
    assert fit.run(config.model_copy(update={"audio": audio, "model": ("bag",)})) == 0
    saved = load_config(config.run)
    assert saved.audio == config.audio
    assert saved.model == ("bag",)


def test_the_cure_for_too_few_positions_works(copy_run: CopyRun) -> None:
    bert = {"kind": "bert", "layers": 1, "width": 8, "heads": 2, "epochs": 1}
    config = copy_run(models={"bert": {**bert, "max_positions": 8}}, model=("bert",))
    with pytest.raises(ConfigError, match="max_positions=66 or more"):
        fit.run(config)
    longer = {"models": {"bert": {**bert, "max_positions": 66}}}
    assert fit.run(Config.model_validate(config.model_dump() | longer)) == 0


def test_what_a_kill_at_the_commit_left_in_the_making_goes(copy_run: CopyRun) -> None:
    config = copy_run(model=("linear",))
    left = Layout(config.run).model("linear") / "partial" / "000000.json-0123"
    left.mkdir(parents=True)
    (left / "file").write_text("half")
    assert fit.run(config) == 0
    assert not left.exists()
