"""One driver at a time, and a dead one never stands in the way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from configs.errors import RunLocked
from shards.lock import hold

REPOSITORY = Path(__file__).parents[2]
HOLDER = """
import sys, time
from pathlib import Path
from shards.lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_second_holder_is_told_who_holds(tmp_path: Path) -> None:
    lock = tmp_path / "run" / "pipeline.lock"
    with hold(lock), pytest.raises(RunLocked, match=rf"pid {os.getpid()} on \S+"), hold(lock):
        raise AssertionError("held twice")
    with hold(lock):
        pass


def test_an_error_inside_releases_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "pipeline.lock"
    with pytest.raises(ValueError, match="inside"), hold(lock):
        raise ValueError("inside")
    with hold(lock):
        pass


def test_a_killed_holder_releases_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "pipeline.lock"
    command = [sys.executable, "-c", HOLDER, str(lock)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunLocked, match=rf"pid {holder.pid} on"), hold(lock):
            raise AssertionError("held by two processes")
        holder.kill()
        holder.wait()
        with hold(lock):
            assert lock.read_text().startswith(f"pid {os.getpid()} on")
