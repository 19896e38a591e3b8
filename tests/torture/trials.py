"""How a trial is run: a warm process that is forked, killed or made to fail, and what it leaves."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil

from tests.commands import data_files

TRIAL_LIMIT_S = 120.0
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["pipeline.verbs", "pipeline.__main__", "numpy", "zarr", "pyarrow"])


def start(words: Sequence[str], log: Path, *, waits: bool = False) -> BaseProcess:
    """A process that runs `python -m pipeline WORDS`, forked where everything is imported; it
    `waits` for a tracer to be attached."""
    gate = Path(f"{log}.gate")
    reached = Path(f"{gate}.reached")
    for path in (gate, reached):
        path.unlink(missing_ok=True)
    process = _FORKS.Process(
        target=_command, args=(list(words), str(log), str(gate) if waits else "")
    )
    process.start()
    while waits and not reached.exists():
        assert process.is_alive(), log.read_text()
        time.sleep(0.002)
    return process


def _command(words: list[str], log: str, gate: str) -> None:
    from configs.cli import main
    from pipeline.__main__ import VERBS

    with Path(log).open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - the process ends with it
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    if gate:
        Path(f"{gate}.reached").touch()
        while not Path(gate).exists():  # opens nothing: calls are counted from here
            time.sleep(0.002)
    code = main("pipeline", VERBS, words)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def finish(process: BaseProcess) -> int:
    """Wait for the end of a trial's process; its exit code, negative for a signal."""
    process.join(TRIAL_LIMIT_S)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError("a trial did not come to its end")
    return process.exitcode


def run(words: Sequence[str], log: Path) -> int:
    return finish(start(words, log))


@contextmanager
def injected(process: BaseProcess, fault: str, log: Path, gate: Path) -> Iterator[None]:
    """strace attached to a waiting process with a fault to inject, till the process ends."""
    with log.open("wb") as file:
        words = ["strace", "-qq", "-p", str(process.pid), "-e", f"inject={fault}"]
        words += ["-e", f"trace={fault.partition(':')[0]}", "-e", "signal=none"]
        tracer = subprocess.Popen(words, stdout=file, stderr=file)
    try:
        _let_go(process, gate)
        yield
    finally:
        if process.is_alive():
            finish(process)
        tracer.wait(timeout=TRIAL_LIMIT_S)


def traced(words: Sequence[str], calls: Sequence[str], log: Path, trace: Path) -> list[str]:
    """The file system calls that a command makes itself, one line each, descriptors as paths."""
    process = start(words, log, waits=True)
    command = ["strace", "-qq", "-y", "-p", str(process.pid), "-o", str(trace)]
    command += ["-e", f"trace={','.join(calls)}", "-e", "signal=none", "-s", "0"]
    tracer = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    _let_go(process, Path(f"{log}.gate"))
    assert finish(process) == 0, log.read_text()
    tracer.wait(timeout=TRIAL_LIMIT_S)
    return trace.read_text(errors="replace").splitlines()


def _let_go(process: BaseProcess, gate: Path) -> None:
    """Open the gate once a tracer is attached."""
    status = Path(f"/proc/{process.pid}/status")
    deadline_s = time.monotonic() + TRIAL_LIMIT_S
    while "TracerPid:\t0\n" in status.read_text():
        assert time.monotonic() < deadline_s, "strace never attached"
        time.sleep(0.002)
    time.sleep(0.02)  # it is attached before it has set itself up
    gate.touch()


def tree_hash(run_directory: Path) -> str:
    """One hash over every data file of a run, names and bytes."""
    lines = [f"{path} {sha256}" for path, sha256 in data_files(run_directory).items()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def usage(pid: int) -> tuple[float, float] | None:
    """CPU seconds of a process so far, and its peak resident memory in MiB; None if it is gone."""
    try:
        times = psutil.Process(pid).cpu_times()
        status = Path(f"/proc/{pid}/status").read_text()
        return times.user + times.system, int(status.split("VmHWM:")[1].split()[0]) / 1024
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError, IndexError):
        return None
