"""What TensorBoard reads is what the journal holds, also after a kill."""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from configs.errors import ConfigError
from configs.models import LinearModel
from configs.schema import Config
from shards.layout import Layout
from tests.test_train.test_resume import die, run
from train import fit
from train.board import Board, scalars
from train.data import TokenData
from train.training import Fit

MakeData = Callable[..., TokenData]
MakeFit = Callable[..., Fit]
Scalars = dict[str, list[tuple[int, float]]]
LINEAR = LinearModel(kind="linear", width=8, embedding="random")
SETTINGS = {"epochs": 3, "batch_size": 4, "checkpoint_every_steps": 3}


def shown(directory: Path) -> Scalars:
    """The steps and numbers of every tag, as TensorBoard finds them."""
    found = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    found.Reload()
    tags = found.Tags()["scalars"]
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in tags}


def logged(one: Fit) -> Scalars:
    """The same of the journal."""
    found: Scalars = defaultdict(list)
    for record in one.journal.read():
        for tag, value in scalars(record):
            found[tag].append((record["step"], pytest.approx(value, rel=1e-6)))
    return dict(found)


def test_every_number_of_the_journal_is_shown(random_data: MakeData, make_fit: MakeFit) -> None:
    one = make_fit(random_data((9, 3, 0)), tensorboard=True, **SETTINGS)
    run(one, LINEAR)
    found = shown(one.directory / "tensorboard")
    assert found == logged(one)
    first, *_ = (record for record in one.journal.read() if "loss" in record)
    assert found["loss"][0] == (1, pytest.approx(first["loss"]))
    rate = first["clips"] / (first["seconds"] + first["waited_s"])
    assert found["clips_per_s"][0] == (1, pytest.approx(rate))
    assert [step for step, _ in found["valid_map"]] == [3, 5, 7]
    flow = {tag for tag in found if tag.startswith("gradient_flow/")}
    assert "gradient_flow/mean/head.weight" in flow
    assert len(flow) == 6
    assert {"lr", "grad_norm", "valid_loss", "epoch", "padding_share"} <= found.keys()


@pytest.mark.parametrize("died", [2, 4, 6, 7])
def test_after_a_kill_nothing_is_shown_twice(
    died: int, random_data: MakeData, make_fit: MakeFit
) -> None:
    """Nor what was logged after the checkpoint and is made again; and a record that the kill cut
    short does no harm."""
    data = random_data((9, 3, 0))
    whole = make_fit(data, tensorboard=True, **SETTINGS)
    run(whole, LINEAR)
    one = make_fit(data, directory="died", tensorboard=True, **SETTINGS)
    with pytest.raises(ZeroDivisionError):
        run(one, LINEAR, died, die)
    assert shown(one.directory / "tensorboard") == logged(one)
    with (one.directory / "tensorboard" / "events.out.tfevents.metrics").open("ab") as file:
        file.write(b"\x07cut")
    again = make_fit(data, directory="died", tensorboard=True, **SETTINGS)
    run(again, LINEAR)
    found = shown(again.directory / "tensorboard")
    assert found == logged(again)
    steps = {tag: [step for step, _ in events] for tag, events in found.items()}
    assert steps == {tag: [step for step, _ in events] for tag, events in logged(whole).items()}
    assert len(list((again.directory / "tensorboard").iterdir())) == 1


def test_it_may_be_asked_for_in_the_middle(random_data: MakeData, make_fit: MakeFit) -> None:
    data = random_data((9, 3, 0))
    with pytest.raises(ZeroDivisionError):
        run(make_fit(data, directory="died", **SETTINGS), LINEAR, 6, die)
    again = make_fit(data, directory="died", tensorboard=True, **SETTINGS)
    assert not (again.directory / "tensorboard").exists()
    run(again, LINEAR)
    assert shown(again.directory / "tensorboard") == logged(again)


def test_switched_off_it_shows_nothing_that_a_kill_took_back(
    random_data: MakeData, make_fit: MakeFit
) -> None:
    data = random_data((9, 3, 0))
    with pytest.raises(ZeroDivisionError):
        run(make_fit(data, directory="died", tensorboard=True, **SETTINGS), LINEAR, 6, die)
    again = make_fit(data, directory="died", **SETTINGS)
    assert list((again.directory / "tensorboard").iterdir())
    run(again, LINEAR)
    assert not list((again.directory / "tensorboard").iterdir())


def test_numbers_that_are_none_are_shown_as_such(tmp_path: Path) -> None:
    board = Board(tmp_path / "tensorboard", tmp_path)
    board.begin([{"step": 1, "loss": math.nan, "masked": ["clip7"]}])
    board.append({"step": 2, "masked": ["clip7"]})
    board.append({"step": 3, "loss": math.inf})
    found = shown(tmp_path / "tensorboard")
    assert found.keys() == {"loss"}
    (_, first), (step, last) = found["loss"]
    assert math.isnan(first)
    assert (step, last) == (3, math.inf)


def test_without_tensorboard_the_cure_is_said(
    copy_run: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = {"made": {"kind": "linear", "width": 8}}
    config = copy_run(models=models, model=("made",), train={"tensorboard": True})
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ConfigError, match=r"pip install '.\[tensorboard\]', or leave it out"):
        fit.run(config)
    assert not (Layout(config.run).model("made") / "metrics.jsonl").exists()
