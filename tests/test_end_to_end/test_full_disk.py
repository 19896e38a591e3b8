"""A disk that is full: the job waits, says what it needs, and goes on when there is room."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import ROOT, command, run, succeed
from tests.torture.job import committed, small_job
from tests.torture.trials import tree_hash

pytestmark = pytest.mark.slow

DISK_MB, ROOM_MB = 160, 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, nearly full of a file `ballast`."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs root, and a system that lets it mount a tmpfs")
    try:
        with (disk / "ballast").open("wb") as file:
            file.write(bytes((DISK_MB - ROOM_MB) * 10**6))
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.parametrize("kind", ["inline", "local"])
def test_a_job_on_a_full_disk_waits_and_goes_on(
    tmp_path: Path, small_disk: Path, kind: str
) -> None:
    config = small_job(tmp_path, 96, 12, seconds=5.0)
    succeed("pipeline", "shard", config, f"run={tmp_path / 'inline'}")
    words = [f"run={small_disk / 'run'}", f"cluster.kind={kind}", "cluster.workers=2"]
    refused = run("pipeline", "shard", config, *words, "cluster.wait_for_disk_s=1")
    assert refused.returncode == 1, refused.stdout + refused.stderr
    assert "No space left on device" in refused.stderr
    assert "MB needed to go on; waiting 1 s for room" in refused.stdout
    assert "Traceback" not in refused.stderr
    done = committed(small_disk / "run")

    process = subprocess.Popen(
        command("pipeline", "shard", config, *words, "cluster.wait_for_disk_s=60"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if "waiting 60 s for room" in line:
            time.sleep(0.5)
            (small_disk / "ballast").unlink()
    assert process.wait(120) == 0, "".join(said)
    process.stdout.close()
    assert any("going on" in line for line in said)
    assert done.items() <= committed(small_disk / "run").items()
    assert tree_hash(small_disk / "run") == tree_hash(tmp_path / "inline")
    assert not list((small_disk / "run/partial").iterdir())
