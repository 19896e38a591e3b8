"""Told to stop near its end: what is done is saved, and the next command does the rest."""

from __future__ import annotations

import time
from collections.abc import Iterator
from threading import Event, Timer
from typing import Any

import pytest

from configs.errors import Preempted
from configs.models import LinearModel
from shards.audit import JOURNAL_NAME
from shards.commit import StageLog
from shards.events import read_lines
from shards.layout import Layout
from tests.test_train.conftest import CopyRun, MakeData, MakeFit
from tests.test_train.test_resume import run, terminate
from train import checkpoint, fit, loop
from train.data import TokenData, open_data

LINEAR = LinearModel(kind="linear", width=8, dropout=0.3)


def test_a_signal_in_the_last_step_lets_it_end(random_data: MakeData, make_fit: MakeFit) -> None:
    one = make_fit(random_data((8, 0, 0)), epochs=1, micro_batch_size=2)
    run(one, LINEAR, 2, terminate)
    assert checkpoint.newest(one.checkpoints, one.partial) == one.checkpoints / "step-000002"


@pytest.mark.parametrize("name", ["_step", "_validate"])
def test_a_signal_at_the_end_of_a_model(
    name: str, copy_run: CopyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the last step it leaves the validation to the next command, and after that the next
    model."""
    small = {"kind": "linear", "width": 8, "epochs": 1}
    config = copy_run(models={"one": small, "two": small}, model=("one", "two"))
    last = -(-len(open_data(Layout(config.run), "default", config.split, None).rows("train")) // 16)
    whole = getattr(loop, name)

    def done_and_stopped(*args: Any) -> Any:
        result = whole(*args)
        if {"_step": last - 1, "_validate": last}[name] in args:
            terminate()
        return result

    layout, is_one_done = Layout(config.run), name == "_validate"
    said = "stopped before fit two" if is_one_done else f"saved step {last} of {last}"
    with monkeypatch.context() as patch:
        patch.setattr(loop, name, done_and_stopped)
        with pytest.raises(Preempted, match=f"{said}; run again"):
            fit.run(config)
    assert (StageLog(layout, "fit", "one").record(0) is not None) is is_one_done
    assert not layout.model("two").exists()
    assert fit.run(config) == 0
    assert StageLog(layout, "fit", "two").record(0)
    for model in ("one", "two"):
        logged = read_lines(layout.model(model) / JOURNAL_NAME)
        assert [line["step"] for line in logged if "valid_loss" in line] == [last]


def test_a_signal_ends_a_validation_that_hangs(
    random_data: MakeData, make_fit: MakeFit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the store of its clips does; the next command makes up for it."""
    one, never = make_fit(random_data((8, 4, 0)), epochs=1), Event()

    def hanging(*_: Any) -> Iterator[Any]:
        Timer(0.3, terminate).start()
        yield never.wait(60) or None

    with monkeypatch.context() as patch:
        patch.setattr(TokenData, "batches", hanging)
        began_s = time.monotonic()
        with pytest.raises(Preempted, match="saved step 2 of 2; run again"):
            run(one, LINEAR)
        assert time.monotonic() - began_s < 10
    never.set()
    assert not [line for line in one.journal.read() if "valid_loss" in line]
    run(one, LINEAR)
    assert [line["step"] for line in one.journal.read() if "valid_loss" in line] == [2]
