"""Ctrl-C, and what batch systems send: one line, exit code 75, nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import psutil
import pytest

from configs.load import load_config
from pipeline.verbs import run_verb
from shards.events import read_lines
from tests.commands import ROOT, command, succeed
from tests.processes import wait_until
from tests.torture.job import committed, small_job
from tests.torture.trials import tree_hash

pytestmark = pytest.mark.slow

NUM_SHARDS = 24
LIMIT_S = 120.0


def test_a_job_with_workers_stops_cleanly_and_goes_on(tmp_path: Path) -> None:
    """A terminal sends Ctrl-C to every process of the group, a batch system to the first. The same
    command goes on after each, and is stopped by the next."""
    config, run = small_job(tmp_path, NUM_SHARDS, NUM_SHARDS), tmp_path / "run"
    overrides = ["cluster.kind=local", "cluster.workers=2"]
    words = command("pipeline", "shard", config, *overrides)
    for number, to_all in (
        (signal.SIGINT, True),
        (signal.SIGTERM, False),
        (signal.SIGUSR1, False),
    ):
        before = committed(run)
        stop_at_work(words, run, number, to_all)
        assert before.items() < committed(run).items()
    before = committed(run)
    succeed("pipeline", "shard", config, *overrides)
    assert before.items() < committed(run).items()
    assert run_verb(load_config(config, [f"run={tmp_path / 'inline'}"]), "shard") == 0
    assert tree_hash(run) == tree_hash(tmp_path / "inline")


def stop_at_work(words: Sequence[str], run: Path, number: int, to_all: bool) -> None:
    """Start a command, and stop it by a signal in the midst of its work."""
    process = subprocess.Popen(
        words,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a shell's & ignores it
    )
    try:
        family = freeze_at_work(process, run)
        (os.killpg if to_all else os.kill)(process.pid, number)
        process.send_signal(signal.SIGCONT)
        said, _ = process.communicate(timeout=30)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert process.returncode == 75, f"after {signal.Signals(number).name}: {said}"
    assert said.splitlines()[-1] == "stopped: the same command goes on from what is committed"
    assert "Traceback" not in said
    psutil.wait_procs(family, timeout=10)
    left = [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert not left


def freeze_at_work(process: subprocess.Popen[str], run: Path) -> list[psutil.Process]:
    """Freeze a driver when its first task has begun and wait for a commit; returns who works for
    it. Workers end the few tasks that they hold, so that, however busy the machine is, some shards
    are left when the signal comes."""
    num_begun, num_committed = begun(run), len(committed(run))
    wait_until(lambda: begun(run) > num_begun or process.poll() is not None, "work", LIMIT_S)
    assert process.poll() is None
    process.send_signal(signal.SIGSTOP)
    wait_until(lambda: len(committed(run)) > num_committed, "a commit", LIMIT_S)
    assert len(committed(run)) < NUM_SHARDS
    return psutil.Process(process.pid).children(recursive=True)


def begun(run: Path) -> int:
    """How many attempts at a task have begun."""
    return sum(event.get("event") == "start" for event in read_lines(run / "events.jsonl"))
