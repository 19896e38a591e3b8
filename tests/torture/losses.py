"""The ESC-10 job, of which a worker, the scheduler or the driver is lost at a random moment."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from pipeline.synth import write_set
from tests.commands import ROOT, command
from tests.dask_processes import QUICK, Started, scheduler, worker
from tests.processes import wait_until
from tests.torture.job import Report, small_job
from tests.torture.trials import tree_hash

ESC10 = ROOT / "../shared/data/esc10"
WORKERS = 2
MOST_AGAIN = 6
LIMIT_S, END_LIMIT_S = 300.0, 30.0
MOST_FROZEN_S = 15.0  # the time-to-live of a worker is 6 s
AGAIN = {0, 75, -signal.SIGKILL}  # how a driver may end that lost something
NOBODY = "error: no scheduler answers"  # one that it had not yet found


class Cluster:
    """A scheduler and two workers; what has died is started again when it is asked for."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stack = ExitStack()
        self._scheduler: Started | None = None
        self._workers: list[Started] = []
        self._address = ""
        self.starts: Counter[str] = Counter()

    def ready(self) -> str:
        """The address, of a cluster that is whole."""
        if self._scheduler is None or self._scheduler.process.poll() is not None:
            self.close()
            started = scheduler(self._place("scheduler"))
            self._scheduler, self._address = self._stack.enter_context(started)
        self._workers = [nanny for nanny in self._workers if nanny.process.poll() is None]
        while len(self._workers) < WORKERS:
            place = self._place("worker")
            started = worker(place, self._address, place.name)
            self._workers.append(self._stack.enter_context(started))
        return self._address

    def _place(self, of: str) -> Path:
        self.starts[of] += 1
        place = self._directory / f"{of}{self.starts[of]}"
        place.mkdir()
        return place

    def scheduler(self) -> psutil.Process:
        assert self._scheduler is not None
        return psutil.Process(self._scheduler.process.pid)

    def nanny(self, rng: random.Random) -> psutil.Process:
        return psutil.Process(rng.choice(self._workers).process.pid)

    def worker(self, rng: random.Random) -> psutil.Process | None:
        """One of them, or None where all are between two lives."""
        alive = [process for nanny in self._workers for process in nanny.workers]
        return rng.choice(alive) if alive else None

    def close(self) -> None:
        self._stack.close()
        self._scheduler, self._workers = None, []


@dataclass(frozen=True)
class Trial:
    """A job at work: who may be lost, and chance."""

    cluster: Cluster
    driver: subprocess.Popen[bytes]
    rng: random.Random


Loss = Callable[[Trial], bool]  # False where there was nobody to lose just then


def _kill_worker(trial: Trial) -> bool:
    victim = trial.cluster.worker(trial.rng)
    if victim is not None:
        victim.kill()
    return victim is not None


def _kill_node(trial: Trial) -> bool:
    """A nanny and its worker at once."""
    nanny = trial.cluster.nanny(trial.rng)
    os.killpg(nanny.pid, signal.SIGKILL)
    nanny.wait(END_LIMIT_S)
    return True


def _freeze_worker(trial: Trial) -> bool:
    """Longer or shorter than the scheduler waits for a sign of life; thawed then."""
    victim = trial.cluster.worker(trial.rng)
    if victim is None:
        return False
    victim.suspend()
    time.sleep(trial.rng.uniform(1.0, MOST_FROZEN_S))
    with suppress(psutil.NoSuchProcess):  # its nanny may have ended it
        victim.resume()
    return True


def _tell_worker(trial: Trial) -> bool:
    """What a batch system does before it takes the node."""
    nanny = trial.cluster.nanny(trial.rng)
    nanny.terminate()
    nanny.wait(END_LIMIT_S)
    return True


def _kill_scheduler(trial: Trial) -> bool:
    victim = trial.cluster.scheduler()
    victim.kill()
    victim.wait(END_LIMIT_S)
    return True


def _kill_driver(trial: Trial) -> bool:
    trial.driver.kill()
    return True


def _tell_driver(trial: Trial) -> bool:
    trial.driver.terminate()
    return True


KILLS: Mapping[str, Loss] = {
    "worker": _kill_worker,
    "scheduler": _kill_scheduler,
    "driver": _kill_driver,
}
LOSSES: Mapping[str, Loss] = {
    "node": _kill_node,
    "frozen worker": _freeze_worker,
    "worker told to go": _tell_worker,
    "driver told to go": _tell_driver,
}


def kills(directory: Path, *, runs: int = 50, seed: int = 21, known: Known | None = None) -> Report:
    """Runs of `pipeline all`, each with a worker, the scheduler or the driver killed at a random
    moment of its work, each to the same tree."""
    return _trials(directory, KILLS, runs, seed, known)


def losses(
    directory: Path, *, runs: int = 24, seed: int = 26, known: Known | None = None
) -> Report:
    """The same with nodes that fail, workers that freeze and thaw, and what is told to go."""
    return _trials(directory, LOSSES, runs, seed, known)


def _trials(
    directory: Path, ways: Mapping[str, Loss], runs: int, seed: int, known: Known | None
) -> Report:
    """Jobs until so many losses have met one at work; those that were done before count apart."""
    rng, names = random.Random(seed), list(ways)
    known = known or reference(directory)
    cluster, lost, missed, work_s = Cluster(directory), Counter[str](), 0, known.work_s
    try:
        while lost.total() < runs:
            whom, moment_s = names[lost.total() % len(names)], rng.uniform(0.0, work_s)
            job = Job(known.config, directory / "run", known.words, directory / "driver.log")
            worked_s = _with_a_loss(cluster, job, ways[whom], moment_s, rng)
            if worked_s is None:
                lost[whom] += 1
            else:
                missed, work_s = missed + 1, min(work_s, worked_s)
                assert missed <= runs, "losses come when the jobs are done"
            assert tree_hash(job.run) == known.tree, (
                f"{whom} lost after {moment_s:.2f} s of work: another tree"
            )
            shutil.rmtree(job.run)
    finally:
        cluster.close()
    started = {f"{name}s_started": count for name, count in cluster.starts.items()}
    return {"runs": runs, "lost_at_work": dict(lost), "undisturbed": missed, **started}


@dataclass(frozen=True)
class Known:
    """A job, the tree of an inline run of it, and how long that worked."""

    config: Path
    words: Sequence[str]
    tree: str
    work_s: float


def reference(directory: Path, every: int = 1) -> Known:
    """Of the ESC-10 job, with every so many of the recordings."""
    config, words = _job(directory, every)
    job = Job(config, directory / "inline", words, directory / "driver.log")
    with job.driver("cluster.kind=inline") as driver:
        wait_until(lambda: job.is_at_work or driver.poll() is not None, "work", LIMIT_S)
        began_s = time.monotonic()
        assert driver.wait(LIMIT_S) == 0, job.said
    return Known(config, words, tree_hash(job.run), time.monotonic() - began_s)


def _job(directory: Path, every: int) -> tuple[Path, list[str]]:
    small = ["codebook.k=32", "codebook.passes=2", "codebook.device=cpu", "split.folds=[1, 2]"]
    if ESC10.is_dir():
        root = _some_of_esc10(directory / "esc10", every)
        return ROOT / "configs/esc10.yaml", [*small, f"source.root={root}"]
    write_set(directory / "clips", 200 // every, seed=9, seconds=4.0)
    return small_job(directory, 200 // every, 10), small[:3]


def _some_of_esc10(root: Path, every: int) -> Path:
    """A list of every so many of its rows, and links to its directories."""
    root.mkdir()
    for path in ESC10.iterdir():
        if path.is_dir():
            (root / path.name).symlink_to(path.resolve())
    head, *rows = (ESC10 / "esc10.csv").read_text().splitlines()
    (root / "esc10.csv").write_text("\n".join([head, *rows[::every]]) + "\n")
    return root


@dataclass(frozen=True)
class Job:
    """`pipeline all` with some words, and where it says something."""

    config: Path
    run: Path
    words: Sequence[str]
    log: Path

    @contextmanager
    def driver(self, *more: str) -> Iterator[subprocess.Popen[bytes]]:
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                command("pipeline", "all", self.config, f"run={self.run}", *self.words, *more),
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

    @property
    def is_at_work(self) -> bool:
        """Whether a task has begun."""
        return (self.run / "events.jsonl").exists()

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")


def _with_a_loss(
    cluster: Cluster, job: Job, lose: Loss, moment_s: float, rng: random.Random
) -> float | None:
    """Drive a job to its end through one loss, so long after its first task has begun. Where it
    was done before that, or there was nobody to lose: the seconds that it worked."""
    with job.driver(*_at(cluster.ready())) as driver:
        wait_until(lambda: job.is_at_work or driver.poll() is not None, "work", LIMIT_S)
        began_s = time.monotonic()
        with suppress(subprocess.TimeoutExpired):
            driver.wait(moment_s)
        is_lost = driver.poll() is None and lose(Trial(cluster, driver, rng))
        code = driver.wait(LIMIT_S)
        worked_s = time.monotonic() - began_s
    for _ in range(MOST_AGAIN):
        assert code in AGAIN or (code == 1 and NOBODY in job.said), job.said
        assert "Traceback" not in job.said, job.said
        if code == 0:
            return None if is_lost else worked_s
        with job.driver(*_at(cluster.ready())) as driver:
            code = driver.wait(LIMIT_S)
    raise AssertionError(f"the job never ended well: {job.said}")


def _at(address: str) -> list[str]:
    return ["cluster.kind=address", f"cluster.address.scheduler={address}"]
