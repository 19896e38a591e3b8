"""The reader `webdataset`: every training clip once an epoch, the same steps, and it learns."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from configs.data import DataConfig
from configs.errors import InputError, IntegrityError, Preempted, RecipeMismatch
from configs.models import BertModel, LinearModel
from configs.schema import Config
from shards.audit import open_audit
from shards.layout import Layout
from shards.stream.schedule import Place, World
from tests.commands import run
from train import fit as fitting
from train.data import TokenData, open_data
from train.jobs import jobs, recipe
from train.logits import logits_of
from train.loop import prepare, train
from train.models import build
from train.ranks import Ranks
from train.sequential import NOTICE, SequentialStream
from train.stop import Stop
from train.training import Fit

# webdataset leaves its last tar to the garbage collector to close.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

MakeData = Callable[..., TokenData]
MakeFit = Callable[..., Fit]
CopyRun = Callable[..., Config]
BERT = BertModel(kind="bert", layers=1, width=16, heads=2, max_positions=32, dropout=0)
LINEAR = LinearModel(kind="linear", width=8, dropout=0.3)


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    yield
    gc.collect()


def rows_by_step(one: Fit, place: Place = Place(0, 0)) -> list[list[int]]:  # noqa: B008 - frozen
    steps = one.reader.steps(place)
    return [[int(row) for batch in step.batches for row in batch.rows_B] for step in steps]


def flat(steps: list[list[int]]) -> list[int]:
    return [row for step in steps for row in step]


def test_steps_are_cut_as_the_streams_are(random_data: MakeData, make_fit: MakeFit) -> None:
    data = random_data((13, 3, 2))
    settings = {"epochs": 3, "batch_size": 5, "micro_batch_size": 2}
    ours = make_fit(data, reader="webdataset", **settings)
    usual = make_fit(data, **settings)
    assert ours.num_steps == usual.num_steps == 8
    pairs = zip(ours.reader.steps(Place(0, 0)), usual.reader.steps(Place(0, 0)), strict=True)
    for step, other in pairs:
        assert step.num_examples == other.num_examples
        sizes = [[len(batch.rows_B) for batch in one.batches] for one in (step, other)]
        assert sizes[0] == sizes[1]
        places = [(one.after.epoch, one.after.position) for one in (step, other)]
        assert places[0] == places[1]
        assert step.waited_s >= 0


@pytest.mark.parametrize("codebooks", [1, 3])
def test_batches_hold_what_the_set_holds(
    codebooks: int, random_data: MakeData, make_fit: MakeFit
) -> None:
    data = random_data((9, 2, 2), codebooks=codebooks)
    one = make_fit(data, reader="webdataset", epochs=1, micro_batch_size=3)
    for step in one.reader.steps(Place(0, 0)):
        for batch in step.batches:
            (known,) = data.batches(batch.rows_B, 3)
            for name in ("inputs_BTN", "lengths_B", "targets_BC", "weights_B"):
                found, wanted = getattr(batch, name), getattr(known, name)
                assert found.dtype == wanted.dtype
                assert torch.equal(found, wanted), name
            assert batch.inputs_BTN.shape[2] == codebooks


def test_every_training_clip_comes_once_an_epoch_and_no_other(
    random_data: MakeData, make_fit: MakeFit
) -> None:
    """More of them than the buffer holds."""
    one = make_fit(random_data((41, 7, 5)), reader="webdataset", epochs=3, batch_size=6)
    seen = flat(rows_by_step(one))
    epochs = [seen[41 * epoch : 41 * (epoch + 1)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(41)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert flat(rows_by_step(one)) == seen
    other = make_fit(one.data, reader="webdataset", epochs=3, batch_size=6, seed=1)
    assert flat(rows_by_step(other)) != seen


def test_the_shards_of_a_run_come_in_another_order_each_epoch(finished: Config) -> None:
    by_webdataset = DataConfig(reader="webdataset", buffer_clips=1)
    data = open_data(Layout(finished.run), "default", finished.split, None, by_webdataset)
    rows = data.rows("train")
    config = finished.train.model_copy(update={"epochs": 2, "batch_size": len(rows)})
    one = Fit("", Path(), Path(), "", data, config, Ranks(torch.device("cpu")))
    first, second = rows_by_step(one)
    assert sorted(first) == sorted(second) == rows.tolist()
    shards = [
        np.searchsorted(data.source.index.first_row, epoch, "right") for epoch in rows_by_step(one)
    ]
    changes = [np.count_nonzero(np.diff(epoch)) for epoch in shards]
    assert changes == [7, 7], "shards are read one after another"
    assert shards[0].tolist() != shards[1].tolist()
    assert first != second


def trained(one: Fit, section: Any, at_step: int | None = None) -> nn.Module:
    """Train to the end, or until SIGTERM comes in the middle of a step."""
    prepare(one.config)
    data = one.data
    model = build(section, data.seen, len(data.classes), data.longest)
    forwards = iter(range(1, 10_000))

    def hook(module: nn.Module, _: Any) -> None:
        if module.training and next(forwards) == at_step:
            os.kill(os.getpid(), signal.SIGTERM)

    model.register_forward_pre_hook(hook)
    train(one, model, Stop())
    return model


def test_bert_learns_through_it(random_data: MakeData, make_fit: MakeFit) -> None:
    data = random_data((96, 0, 32), task="multiclass")
    settings = {"epochs": 12, "batch_size": 16, "lr": 5e-3, "evaluate_every_epochs": 100}
    one = make_fit(data, reader="webdataset", **settings)
    model = trained(one, BERT)
    losses = [record["loss"] for record in one.journal.read() if "loss" in record]
    assert losses[-1] < losses[0] / 2
    rows = data.rows("test")
    logits_NC = logits_of(model, data, rows, 16, torch.device("cpu"))
    right = logits_NC.argmax(1) == data.targets(rows).argmax(1)
    assert right.mean() > 0.5, "chance is one in four"


def test_a_stopped_training_draws_what_is_left_of_its_epoch_anew(
    random_data: MakeData, make_fit: MakeFit
) -> None:
    data = random_data((20, 0, 3))
    settings = {"epochs": 3, "batch_size": 4, "reader": "webdataset"}
    with pytest.raises(Preempted, match="saved step 7 of 15; run again"):
        trained(make_fit(data, directory="stopped", **settings), LINEAR, at_step=7)
    again = make_fit(data, directory="stopped", **settings)
    weights = trained(again, LINEAR)
    logged = [record["step"] for record in again.journal.read() if "loss" in record]
    assert logged == [1, 10, 15]
    assert again.num_steps == 15
    left = rows_by_step(again, Place(1, 8))
    assert [len(step) for step in left] == [4] * 8
    assert len(set(flat(left[:3]))) == 12, "of the epoch that was left, none twice"
    assert sorted(flat(left[3:])) == list(range(20)), "the next one is whole"
    assert left[3:] == rows_by_step(again)[10:]
    assert all(torch.isfinite(parameter).all() for parameter in weights.parameters())


def test_a_killed_training_goes_on_from_its_checkpoint(
    random_data: MakeData, make_fit: MakeFit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the same weights however often the rest is tried: what it draws anew is no accident."""
    data = random_data((20, 0, 3))
    settings = {"epochs": 3, "batch_size": 4, "reader": "webdataset", "checkpoint_every_steps": 4}
    ends = []
    for place in ("one", "two"):
        with monkeypatch.context() as patch:
            patch.setattr(os, "kill", die)
            with pytest.raises(ZeroDivisionError):
                trained(make_fit(data, directory=place, **settings), LINEAR, at_step=7)
        model = trained(make_fit(data, directory=place, **settings), LINEAR)
        ends.append(nn.utils.parameters_to_vector(model.parameters()))
    assert torch.equal(*ends)


def die(*_: object) -> None:
    raise ZeroDivisionError


def test_a_cursor_of_the_other_reader_is_refused(random_data: MakeData, make_fit: MakeFit) -> None:
    data = random_data((8, 0, 0))
    usual, ours = make_fit(data), make_fit(data, reader="webdataset")
    for one, other in ((usual, ours), (ours, usual)):
        cursor = next(one.reader.steps(Place(0, 0))).after
        assert one.reader.sampler.place(cursor) == Place(0, 4)
        with pytest.raises(RecipeMismatch, match="mode: "):
            other.reader.sampler.place(cursor)


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_ranks_share_out_what_one_process_reads(
    num_ranks: int, random_data: MakeData, make_fit: MakeFit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever webdataset would make of torchrun's environment."""
    one = make_fit(random_data((11, 2, 0)), reader="webdataset", batch_size=5, micro_batch_size=2)
    monkeypatch.setenv("WORLD_SIZE", str(num_ranks))
    of_ranks = []
    for rank in range(num_ranks):
        monkeypatch.setenv("RANK", str(rank))
        own = SequentialStream(one.data, one.rows, one.config, World(rank, num_ranks))
        of_ranks.append([*own.steps(Place(0, 0))])
    whole = [*one.reader.steps(Place(0, 0))]
    assert {len(steps) for steps in of_ranks} == {len(whole)}
    for step, *parts in zip(whole, *of_ranks, strict=True):
        assert len({len(part.batches) for part in parts}) == 1
        counted = [
            int(row)
            for part in parts
            for batch in part.batches
            for row in batch.rows_B[batch.weights_B.numpy() > 0]
        ]
        assert sorted(counted) == sorted(row for b in step.batches for row in b.rows_B.tolist())


def tar_of(data: TokenData) -> Path:
    (path,) = data.source.paths()
    return path


def test_damaged_and_short_shards_end_it(random_data: MakeData, make_fit: MakeFit) -> None:
    data = random_data((8, 0, 0))
    path = tar_of(data)
    whole = bytearray(path.read_bytes())
    flipped = whole.copy()
    flipped[int(data.source.index.columns["tokens"].offset[0])] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(IntegrityError, match=r"tokens-.*: b000000, tokens is damaged"):
        rows_by_step(make_fit(data, reader="webdataset"))
    path.write_bytes(bytes(len(whole)))  # a tar without members, of the right size
    with pytest.raises(IntegrityError, match="ended after 0 of 8 training clips"):
        rows_by_step(make_fit(data, reader="webdataset"))
    path.write_bytes(whole[:-512])
    with pytest.raises(IntegrityError, match=r"tokens-.*\.tar has"):
        rows_by_step(make_fit(data, reader="webdataset"))


def test_the_recipe_names_what_decides_the_steps(copy_run: CopyRun) -> None:
    config = copy_run(model=("bag", "linear"))
    other = config.model_copy(update={"data": DataConfig(reader="webdataset")})
    bag, linear = jobs(config)
    chosen = {"order": "global", "tail": "carry", "lengths": "mixed"}
    all_clips: dict[str, Any] = {"classes": [], "ids": None}
    assert recipe(config, bag)["data"] == all_clips
    assert recipe(config, linear)["data"] == {"reader": "stream", **chosen, **all_clips}
    assert recipe(other, bag) == recipe(config, bag)
    by_webdataset = {"reader": "webdataset", "buffer_clips": 8192}
    assert recipe(other, linear)["data"] == by_webdataset | all_clips
    with pytest.raises(RecipeMismatch, match="data"):
        fitting.run(other)


def test_fit_says_so_and_audit_refuses(copy_run: CopyRun, capsys: Any) -> None:
    models = {"other": {"kind": "linear", "width": 8, "epochs": 1}}
    config = copy_run(models=models, model=("other",), data={"reader": "webdataset"})
    assert fitting.run(config) == 0
    assert capsys.readouterr().out.count(NOTICE) == 1
    with pytest.raises(
        InputError, match="trained with data.reader=webdataset, which keeps no order"
    ):
        open_audit(Layout(config.run), "other")
    done = run("shards", "audit", config.run, "--model", "other", "--step", "1")
    assert (done.returncode, done.stdout) == (2, "")
    assert open_audit(Layout(config.run), "linear").clips(1)
