"""The ESC-10 job, of which a worker, the scheduler or the driver is lost at a random moment."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

from pipeline.synth import write_set
from tests.commands import ROOT, command
from tests.dask_processes import QUICK, Started, scheduler, worker
from tests.torture.job import Report, small_job
from tests.torture.trials import tree_hash

ESC10 = ROOT / "../shared/data/esc10"
WORKERS = 2
MOST_AGAIN = 6
LIMIT_S = 300.0
AGAIN = {0, 75, -signal.SIGKILL}  # how a driver may end that lost something
NOBODY = "error: no scheduler answers"  # one that it had not yet found


class Cluster:
    """A scheduler and two workers; what has died is started again when it is asked for."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._stack = ExitStack()
        self.scheduler: Started | None = None
        self.workers: list[Started] = []
        self.address = ""
        self.starts = 0

    def ready(self) -> str:
        """The address, of a cluster that is whole."""
        if self.scheduler is None or self.scheduler.process.poll() is not None:
            self.close()
            self.starts += 1
            place = self.directory / f"cluster{self.starts}"
            place.mkdir()
            self.scheduler, self.address = self._stack.enter_context(scheduler(place))
            self.workers = [
                self._stack.enter_context(worker(place, self.address, f"w{number}"))
                for number in range(WORKERS)
            ]
        return self.address

    def lose(self, whom: str, rng: random.Random) -> bool:
        """SIGKILL the scheduler, or a worker; False where it was between two lives."""
        victim: psutil.Process | None = None
        if whom == "scheduler" and self.scheduler is not None:
            victim = psutil.Process(self.scheduler.process.pid)
        elif alive := [process for nanny in self.workers for process in nanny.workers]:
            victim = rng.choice(alive)
        if victim is None:
            return False
        victim.kill()
        if whom == "scheduler" and self.scheduler is not None:
            self.scheduler.process.wait(20)
        return True

    def close(self) -> None:
        self._stack.close()
        self.scheduler = None


def kills(directory: Path, *, runs: int = 50, seed: int = 21) -> Report:
    """Runs of `pipeline all`, each with one loss at a random moment, each to the same tree."""
    rng = random.Random(seed)
    config, overrides = _job(directory)
    expected, took_s = _reference(config, overrides, directory)
    cluster, lost, trees = Cluster(directory), Counter[str](), {expected}
    try:
        for number in range(runs):
            whom = ("worker", "scheduler", "driver")[number % 3]
            place = directory / f"run{number}"
            words = [*overrides, f"run={place}"]
            moment_s = rng.uniform(0.5, took_s)
            lost[whom] += _with_a_loss(cluster, config, words, whom, moment_s, rng)
            trees.add(tree_hash(place))
            assert len(trees) == 1, (
                f"run {number}: {whom} lost after {moment_s:.2f} s: another tree"
            )
    finally:
        cluster.close()
    return {"runs": runs, "trees": len(trees), "schedulers": cluster.starts, "lost": dict(lost)}


def _job(directory: Path) -> tuple[Path, list[str]]:
    small = ["codebook.k=32", "codebook.passes=2", "codebook.device=cpu", "split.folds=[1, 2]"]
    if ESC10.is_dir():
        return ROOT / "configs/esc10.yaml", small
    write_set(directory / "clips", 200, seed=9, seconds=4.0)
    return small_job(directory, 200, 10), small[:3]


def _reference(config: Path, overrides: Sequence[str], directory: Path) -> tuple[str, float]:
    place = directory / "inline"
    began_s = time.monotonic()
    with _driver(config, [*overrides, f"run={place}", "cluster.kind=inline"], directory) as driver:
        assert driver.wait(LIMIT_S) == 0, _said(directory)
    return tree_hash(place), time.monotonic() - began_s


def _with_a_loss(
    cluster: Cluster, config: Path, words: list[str], whom: str, moment_s: float, rng: random.Random
) -> bool:
    """Drive a job to its end through one loss; whether the victim was at work when it was lost."""
    directory = cluster.directory
    with _driver(config, [*words, *_at(cluster.ready())], directory) as driver:
        with suppress(subprocess.TimeoutExpired):
            driver.wait(moment_s)
        was_at_work = driver.poll() is None
        if whom == "driver":
            driver.kill()
        elif was_at_work:
            was_at_work = cluster.lose(whom, rng)
        code = driver.wait(LIMIT_S)
    for _ in range(MOST_AGAIN):
        assert code in AGAIN or (code == 1 and NOBODY in _said(directory)), _said(directory)
        assert "Traceback" not in _said(directory), _said(directory)
        if code == 0:
            return was_at_work
        with _driver(config, [*words, *_at(cluster.ready())], directory) as driver:
            code = driver.wait(LIMIT_S)
    raise AssertionError(f"the job never ended well: {_said(directory)}")


def _at(address: str) -> list[str]:
    return ["cluster.kind=address", f"cluster.address.scheduler={address}"]


def _said(directory: Path) -> str:
    return (directory / "driver.log").read_text(errors="replace")


@contextmanager
def _driver(
    config: Path, words: Sequence[str], directory: Path
) -> Iterator[subprocess.Popen[bytes]]:
    with (directory / "driver.log").open("wb") as log:
        process = subprocess.Popen(
            command("pipeline", "all", config, *words),
            cwd=ROOT,
            env={**os.environ, **QUICK},
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
