"""Running the public commands as a user does, and comparing the runs they leave behind."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
POLL_S = 0.001
START_LIMIT_S = 120.0
DATA = (
    "plan.*",
    "statistics-*.json",
    "commits/**/*",
    "audio/*",
    "frames.zarr/**/*",
    "index/*",
    "codebooks/**/*",
)
DATA += ("tokens/**/*", "seals/*")


def write_config(path: Path, tree: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(tree))
    return path


def command(package: str, verb: str, config: Path, *overrides: str) -> list[str]:
    return [sys.executable, "-m", package, verb, str(config), *overrides]


def run(package: str, verb: str, config: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, output captured."""
    return subprocess.run(
        command(package, verb, config, *overrides),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def succeed(package: str, verb: str, config: Path, *overrides: str) -> str:
    """Run a command that must end well; returns what it printed."""
    done = run(package, verb, config, *overrides)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def kill_when(words: Sequence[str], is_time: Callable[[], bool]) -> bool:
    """Start a command and SIGKILL it when `is_time` says so.

    Returns False if it ended before; the process was alive whenever this returns True.
    """
    process = subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline_s = time.monotonic() + START_LIMIT_S
        while not is_time():
            if process.poll() is not None:
                return False
            assert time.monotonic() < deadline_s, f"{words} never came to the moment to kill it"
            time.sleep(POLL_S)
        if process.poll() is not None:
            return False
        os.kill(process.pid, signal.SIGKILL)
        return process.wait() == -signal.SIGKILL
    finally:
        process.kill()
        process.wait()


def partial_files(directory: Path) -> list[Path]:
    """Files in the making below a `partial` directory; some may vanish while we look."""
    found = []
    for folder, _, names in os.walk(directory):
        found += [Path(folder) / name for name in names]
    return found


def data_files(run_directory: Path) -> dict[str, str]:
    """sha256 of every file of a run that holds data, by its path in the run."""
    paths = {path for pattern in DATA for path in run_directory.glob(pattern) if path.is_file()}
    return {
        path.relative_to(run_directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(paths)
    }
