"""Trainings as `status` sees them: begun by somebody, stopped, committed, or no more than
asked for."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from configs.schema import Config
from pipeline.trainings import Trainings, TrainingSight
from pipeline.view import training_line
from shards.audit import JOURNAL_NAME, SPEC_NAME, Spec
from shards.commit import StageLog
from shards.layout import Layout
from tests.commands import run, succeed
from tests.processes import dead_pid

SPEC = Spec("default", {}, None, seed=0, batch_size=8, num_epochs=20, data={}, fingerprint="")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Of a run in which `fit` was given a recipe for a model `m`, and no more."""
    layout = Layout(tmp_path)
    StageLog(layout, "fit", "m").open({})
    layout.model("m").mkdir(parents=True)
    return layout


def held_by(layout: Layout, pid: int, host: str = "") -> None:
    layout.fit_lock("m").write_text(f"pid {pid} on {host or socket.gethostname()}")


def log_step(layout: Layout, step: int, epoch: float) -> None:
    (layout.model("m") / SPEC_NAME).write_bytes(SPEC.to_json())
    with (layout.model("m") / JOURNAL_NAME).open("a") as file:
        for record in ({"step": step, "epoch": epoch}, {"step": step, "valid_map": 0.5}):
            file.write(json.dumps(record) + "\n")


def line_of(layout: Layout) -> str:
    (sight,) = Trainings(layout).look()
    return training_line(sight)


def test_a_refused_config_is_no_training(layout: Layout) -> None:
    held_by(layout, dead_pid())
    assert [*Trainings(layout).look()] == []


def test_a_training_at_work_says_how_far_it_is(layout: Layout) -> None:
    held_by(layout, os.getpid())
    assert line_of(layout).startswith(f"fit m: begins, pid {os.getpid()} on ")
    log_step(layout, 1_200, 3.2104)
    assert line_of(layout).startswith("fit m: epoch 3.21 of 20, step 1,200, pid ")
    assert " is at work since " in line_of(layout)


def test_a_training_elsewhere_may_live(layout: Layout) -> None:
    held_by(layout, 17, "node9")
    assert "pid 17 on node9 began at " in line_of(layout)


def test_a_stopped_training_names_the_command(layout: Layout) -> None:
    held_by(layout, dead_pid())
    log_step(layout, 10, 0.5)
    said = "fit m: epoch 0.5 of 20, step 10, stopped: `python -m train fit` goes on"
    assert line_of(layout) == said
    (layout.model("m") / SPEC_NAME).write_bytes(b"{")
    assert line_of(layout) == said.replace(" of 20", "")


def test_each_line_of_a_log_is_read_once(layout: Layout) -> None:
    trainings = Trainings(layout)
    log_step(layout, 10, 0.5)
    assert [sight.step for sight in trainings.look()] == [10]
    (journal := layout.model("m") / JOURNAL_NAME).write_bytes(b" " * journal.stat().st_size)
    assert [sight.step for sight in trainings.look()] == [10]
    log_step(layout, 20, 1.0)
    assert [sight.step for sight in trainings.look()] == [20]


def test_a_committed_model_needs_nobody() -> None:
    sight = TrainingSight("m", True, 10, 1.0, 1, None)
    assert training_line(sight) == "fit m: committed"
    assert sight.is_begun
    assert not replace(sight, is_committed=False, step=0).is_begun


def test_what_fit_refused_is_not_listed(own_run: Config) -> None:
    small = "models.b={kind: bert, width: 8, layers: 1, heads: 2, max_positions: 4}"
    refused = run("train", "fit", own_run.run, small, "model=b")
    assert refused.returncode == 2
    assert "models.b: 1 fault\n  max_positions=4 is too short" in refused.stderr
    assert Layout(own_run.run).fit_lock("b").exists()
    assert "fit b" not in succeed("pipeline", "status", own_run.run)
