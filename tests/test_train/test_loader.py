"""Loader processes give what the training's own threads give, and end with it; what the config's
`data` section chooses is what training and audit see."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from pydantic import ValidationError
from torch.utils.data import DataLoader

from configs.data import DataConfig
from configs.errors import InputError, IntegrityError, TrainingFailed
from configs.schema import Config, TrainConfig
from shards.__main__ import VERBS
from shards.audit import open_audit
from shards.layout import Layout
from shards.stream.proof import assert_resumes_exactly
from shards.stream.schedule import Place
from shards.stream.stream import Step
from tests.commands import ROOT
from tests.processes import wait_until
from tests.test_train.conftest import CopyRun, MakeData, with_config
from train import fit as fitting
from train.batches import Batch, Classes, padding_share
from train.data import BatchStream, TokenData, open_data
from train.loader import LoaderProcesses, _killed
from train.stop import Stop

TRAIN = TrainConfig(epochs=3, batch_size=8, micro_batch_size=3, seed=5)


def stream_of(data: TokenData, **settings: Any) -> BatchStream:
    return with_config(data, **settings).stream(data.rows("train"), TRAIN)


def same(one: Step[Batch], other: Step[Batch]) -> bool:
    fields = ("inputs_BTN", "lengths_B", "targets_BC", "weights_B")
    return (one.after, one.num_examples) == (other.after, other.num_examples) and all(
        torch.equal(getattr(a, name), getattr(b, name))
        for a, b in zip(one.batches, other.batches, strict=True)
        for name in fields
    )


@pytest.fixture
def data(random_data: MakeData) -> TokenData:
    return random_data((53, 6, 0))


def test_processes_make_the_same_steps_from_any_place_on(data: TokenData) -> None:
    stream = stream_of(data, lengths="bucketed")
    whole = [*stream.steps()]
    for first, num_workers in ((0, 2), (7, 1)):
        place = stream.sampler.place(whole[first - 1].after) if first else Place(0, 0)
        rest = [*LoaderProcesses(stream, num_workers).steps(place)]
        assert len(rest) == len(whole) - first
        assert all(map(same, rest, whole[first:]))
        assert all(step.waited_s > 0 for step in rest)


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def test_processes_end_with_their_consumer(data: TokenData) -> None:
    before = set(children())
    steps = LoaderProcesses(stream_of(data), 2).steps(Place(0, 0))
    next(steps)
    assert len(set(children()) - before) == 2
    steps.close()
    wait_until(lambda: not set(children()) - before)


def test_processes_end_with_a_consumer_that_takes_nothing(
    data: TokenData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a training that has nothing left to do, or that is told to stop before its first step;
    also where a store hangs."""
    before, stream = set(children()), stream_of(data)
    monkeypatch.setattr(type(stream), "steps", lambda *_, **__: time.sleep(600))
    with closing(Stop().until_asked(LoaderProcesses(stream, 2).steps(Place(0, 0)))):
        assert len(set(children()) - before) == 2
    wait_until(lambda: not set(children()) - before)


def test_a_worker_that_is_killed_is_said(data: TokenData) -> None:
    assert list(DataLoader([1], num_workers=1)) == [1], "it leaves torch's handler of signals"
    before = set(children())
    train = TRAIN.model_copy(update={"epochs": 10_000})
    with closing(
        LoaderProcesses(data.stream(data.rows("train"), train), 2).steps(Place(0, 0))
    ) as steps:
        next(steps)
        os.kill(min(child.pid for child in set(children()) - before), signal.SIGKILL)
        time.sleep(0.2)  # it is said where a step is waited for, and nowhere else
        with pytest.raises(TrainingFailed, match=r"a loader worker was killed .*data\.workers=2"):
            list(steps)


def test_a_worker_whose_pipe_ends_before_it_does_is_said_too() -> None:
    dying = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    dying.start()
    killer = Timer(0.2, dying.kill)
    killer.start()
    assert _killed(ConnectionResetError("its pipe"), [dying]) == f"pid {dying.pid}: -9"
    dying.join()
    with pytest.raises(ConnectionResetError, match="nobody died"):
        _killed(ConnectionResetError("nobody died"), [])


FAILS = """
import sys
from pathlib import Path
import torch
from configs.load import load_config
from train import fit, loop

steps_left_open = []

class LeftOpen:
    # no closing: what a notebook does

    def __init__(self, steps):
        steps_left_open.append(steps)

    def __enter__(self):
        return steps_left_open[0]

    def __exit__(self, *_):
        pass

def fails(*_):
    raise RuntimeError("out of memory, say")

loop.accumulate = fails
if sys.argv[2] == "left open":
    loop.closing = LeftOpen
words = ["data.workers=2", "models={fails: {kind: linear}}", "model=fails"]
fit.run(load_config(Path(sys.argv[1]), words))
"""


@pytest.mark.parametrize("steps", ["closed", "left open"])
def test_an_error_of_the_training_ends_its_workers(copy_run: CopyRun, steps: str) -> None:
    """Its traceback keeps the frames of the training until the interpreter has ended."""
    words = [sys.executable, "-c", FAILS, str(copy_run().run), steps]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("RuntimeError: out of memory, say")


def test_an_error_of_a_worker_is_the_error_itself(data: TokenData) -> None:
    stream = stream_of(data)
    index = data.source.index
    (path,) = data.source.paths()
    raw = bytearray(path.read_bytes())
    raw[index.columns["tokens"].offset[0]] ^= 1
    path.write_bytes(raw)
    with pytest.raises(IntegrityError, match="block 0, tokens is damaged") as caught:
        list(LoaderProcesses(stream, 2).steps(Place(0, 0)))
    assert "Traceback" not in str(caught.value)


# --- what the config chooses ---------------------------------------------------------------------


@pytest.mark.parametrize("order", ["global", "window", "weighted"])
@pytest.mark.parametrize("tail", ["carry", "drop", "pad"])
def test_every_choice_resumes_exactly(data: TokenData, order: str, tail: str) -> None:
    window = {"window_blocks": 1} if order == "window" else {}
    made = with_config(data, order=order, tail=tail, lengths="bucketed", threads=0, **window)
    assert_resumes_exactly(
        lambda world: made.stream(data.rows("train"), TRAIN, world),
        cuts=range(0, 19, 6),
        num_ranks=(1, 2, 3),
        num_workers=(1, 2),
    )


def test_bucketed_steps_are_padded_less_and_fixed_ones_have_one_shape(data: TokenData) -> None:
    def share(lengths: str) -> float:
        steps = [*stream_of(data, lengths=lengths).steps()]
        return float(np.mean([padding_share(step.batches) for step in steps]))

    assert share("bucketed") < share("mixed") < share("fixed")
    steps = [*stream_of(data, lengths="fixed").steps()]
    assert {batch.inputs_BTN.shape[1] for step in steps for batch in step.batches} == {data.longest}


def test_classes_that_are_not_learnt_do_not_weigh(make_data: MakeData) -> None:
    labels = [[0, 2], *[[0]] * 49, *[[1]] * 50]
    data = make_data([[number % 16] for number in range(100)], labels, (100, 0, 0))
    learnt = Classes.chosen(data.classes, [0, 1])
    made = replace(with_config(data, order="weighted"), learnt=learnt)
    steps = made.stream(data.rows("train"), TRAIN.model_copy(update={"epochs": 40})).steps()
    rows = np.concatenate([batch.rows_B for step in steps for batch in step.batches])
    assert np.count_nonzero(rows == 0) < 0.03 * len(rows), "its other label is as rare as can be"


def test_rare_classes_come_as_often_as_others(make_data: MakeData) -> None:
    labels = [[0]] * 90 + [[1]] * 10
    data = make_data([[number % 16] for number in range(100)], labels, (100, 0, 0))
    train = TRAIN.model_copy(update={"epochs": 20})

    def share(balance: float) -> float:
        made = with_config(data, order="weighted", balance=balance)
        steps = made.stream(data.rows("train"), train).steps()
        targets_NC = np.concatenate([b.targets_BC.numpy() for step in steps for b in step.batches])
        return float(targets_NC[:, 1].mean())

    assert share(0.0) == pytest.approx(0.1, abs=0.03)
    assert share(1.0) == pytest.approx(0.5, abs=0.05)
    assert 0.15 < share(0.5) < 0.45


def opened(finished: Config, **settings: Any) -> TokenData:
    return open_data(Layout(finished.run), "default", finished.split, None, DataConfig(**settings))


def test_some_classes_only(finished: Config) -> None:
    whole = opened(finished)
    first, second = whole.classes[:2]
    chosen = opened(finished, classes=(second.name, first.id))
    assert chosen.classes == (first, second)
    targets_NC = whole.targets(whole.source.all_rows)
    for split in ("train", "valid", "test"):
        rows = whole.rows(split)
        kept = rows[targets_NC[rows, :2].any(axis=1)]
        assert chosen.rows(split).tolist() == kept.tolist()
    assert chosen.targets(chosen.rows("train")).tolist() == (
        targets_NC[chosen.rows("train"), :2].tolist()
    )
    (batch,) = chosen.batches(chosen.rows("train")[:4], 4)
    assert batch.targets_BC.tolist() == chosen.targets(chosen.rows("train")[:4]).tolist()


def test_listed_clips_only(finished: Config, tmp_path: Path) -> None:
    whole = opened(finished)
    ids = tmp_path / "ids.txt"
    ids.write_text("\n".join([*whole.ids[::2], ""]))
    chosen = opened(finished, ids=ids)
    for split in ("train", "valid", "test"):
        kept = [row for row in whole.rows(split).tolist() if row % 2 == 0]
        assert chosen.rows(split).tolist() == kept


def test_what_is_not_there_is_refused(finished: Config, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.classes: the data set has no class kazoo"):
        opened(finished, classes=("kazoo",))
    with pytest.raises(InputError, match=r"data\.ids: .*none\.txt: No such file"):
        opened(finished, ids=tmp_path / "none.txt")
    trained = opened(finished).rows("train")[:3]
    (tmp_path / "few.txt").write_text("\n".join(opened(finished).ids[row] for row in trained))
    with pytest.raises(InputError, match=r"data\.ids: no clip of split test is chosen"):
        opened(finished, ids=tmp_path / "few.txt")
    (tmp_path / "ids.txt").write_text("nobody\n")
    with pytest.raises(InputError, match=r"1 of its lines are no ids .*nobody.*one id a line"):
        opened(finished, ids=tmp_path / "ids.txt")


def test_a_list_of_ids_that_is_gone_is_said_by_fit(copy_run: CopyRun, tmp_path: Path) -> None:
    models = {"chosen": {"kind": "linear"}}
    config = copy_run(models=models, model=("chosen",), data={"ids": str(tmp_path / "none")})
    with pytest.raises(InputError, match=r"data\.ids: .*none: No such file"):
        fitting.run(config)


@pytest.mark.parametrize(
    "choice",
    [
        {"window_blocks": 8},
        {"balance": 0.5},
        {"buffer_clips": 9},
        {"order": "window", "balance": 2},
    ],
)
def test_a_choice_that_would_be_lost_is_a_fault(choice: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="say that, too, or leave it out"):
        DataConfig(**choice)


CHOICES: tuple[dict[str, Any], ...] = (
    {"order": "window", "window_blocks": 2, "workers": 2},
    {"order": "weighted", "balance": 0.5, "lengths": "bucketed"},
    {"tail": "drop", "lengths": "fixed", "threads": 0},
)


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: "-".join(map(str, choice.values())))
def test_a_training_by_choice_is_audited(copy_run: CopyRun, choice: dict[str, Any]) -> None:
    models = {"chosen": {"kind": "linear", "width": 8, "epochs": 2}}
    train = {"batch_size": 10, "device": "cpu", "threads": 1}
    config = copy_run(models=models, model=("chosen",), data=choice, train=train)
    assert fitting.run(config) == 0
    audit = open_audit(Layout(config.run), "chosen")
    once = [set(audit.counts(epoch)) == {1} for epoch in range(2)]
    assert VERBS["audit"].run(config.run, Namespace(step=None, model="chosen")) == 0
    assert once == [audit.promises_all] * 2 == [choice.get("order") == "window"] * 2
    assert len(audit.clips(1)) == audit.schedule.batch_size
