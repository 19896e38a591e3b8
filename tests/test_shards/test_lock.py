"""One driver at a time, and a dead one never stands in the way."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs.errors import RunLocked
from shards.lock import Holder, hold, holder

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


def test_the_holder_is_known_and_known_to_be_alive(tmp_path: Path) -> None:
    lock = tmp_path / "pipeline.lock"
    assert holder(lock) is None
    with hold(lock):
        found = holder(lock)
        assert found is not None
        assert (found.pid, found.host) == (os.getpid(), socket.gethostname())
        assert found.is_alive
        assert time.time() - found.since_s < 60
    lock.write_text("")  # as a driver leaves it for a moment
    assert holder(lock) is None


def test_a_dead_holder_is_known_to_be_dead() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        found = Holder(process.pid, socket.gethostname(), 0.0)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert found.is_alive is False  # ended, but not waited for
        process.wait()
        assert found.is_alive is False


def test_a_holder_on_another_host_cannot_be_seen() -> None:
    assert Holder(os.getpid(), "elsewhere", 0.0).is_alive is None
