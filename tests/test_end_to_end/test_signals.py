"""Ctrl-C, and what batch systems send: one line, exit code 75, nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.commands import ROOT, command, succeed
from tests.torture.job import committed, small_job
from tests.torture.trials import tree_hash

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("number", "to_all"), [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGUSR1, False)]
)
def test_a_job_with_workers_stops_cleanly(tmp_path: Path, number: int, to_all: bool) -> None:
    """A terminal sends Ctrl-C to every process of the group, a batch system to the first."""
    config = small_job(tmp_path, 96, 24, seconds=4.0)
    overrides = ["cluster.kind=local", "cluster.workers=2"]
    process = subprocess.Popen(
        command("pipeline", "shard", config, *overrides),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    while len(committed(tmp_path / "run")) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    family = psutil.Process(process.pid).children(recursive=True)
    before = committed(tmp_path / "run")
    (os.killpg if to_all else os.kill)(process.pid, number)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 75, said
    assert said.splitlines()[-1] == "stopped: the same command goes on from what is committed"
    assert "Traceback" not in said
    psutil.wait_procs(family, timeout=10)
    left = [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert not left
    succeed("pipeline", "shard", config, *overrides)
    assert before.items() <= committed(tmp_path / "run").items()
    succeed("pipeline", "shard", config, f"run={tmp_path / 'inline'}")
    assert tree_hash(tmp_path / "run") == tree_hash(tmp_path / "inline")
