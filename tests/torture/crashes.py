"""Jobs that die: at each file system call, at random moments, under all layouts."""

from __future__ import annotations

import random
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

from shards.layout import Layout
from shards.plan import load as load_plan
from shards.verify import verify
from tests.commands import partial_files
from tests.torture import trials
from tests.torture.job import Report, committed, fresh, index_of, small_job

FILE_CALLS = ("openat", "write", "pwrite64", "fsync", "rename", "link", "mkdir", "unlink", "rmdir")
FAULTS = ("signal=KILL", "error=ENOSPC", "error=EIO")


def points(directory: Path, *, every: int = 1) -> Report:
    """Fail every file system call on the run's files, one a trial; then run again and compare."""
    # The disk that is said to be full is not: a second of waiting is as good as five.
    config = small_job(directory, num_clips=6, cluster={"kind": "inline", "wait_for_disk_s": 1})
    run, log = directory / "run", directory / "log"
    calls = trials.traced(["shard", str(config)], FILE_CALLS, log, directory / "trace")
    wanted = trials.tree_hash(run)
    places = _sample(_ordinals(calls, run), every)
    tried: Counter[str] = Counter()
    for call, ordinal in places:
        for fault in FAULTS:
            shutil.rmtree(run)
            _fail_once(config, f"{call}:{fault}:when={ordinal}", directory)
            assert trials.run(["shard", str(config)], log) == 0, log.read_text()[-2000:]
            assert trials.tree_hash(run) == wanted, (
                f"another tree after {fault} at {call} {ordinal}"
            )
            assert not partial_files(run / "partial"), (
                f"leftovers after {fault} at {call} {ordinal}"
            )
            tried[fault] += 1
    assert "Traceback" not in log.read_text(), "a fault ended in a traceback"
    return {
        "points": len(places),
        "faults": sum(tried.values()),
        "calls": sorted({c for c, _ in places}),
    }


def _ordinals(calls: list[str], run: Path) -> list[tuple[str, int]]:
    """(call, how many of its name came before it and itself) for the calls on the run's files;
    opening for reading changes nothing and is left out."""
    counted: Counter[str] = Counter()
    found = []
    for line in calls:
        name = line.partition("(")[0]
        counted[name] += 1
        reads_only = name == "openat" and not re.search(r"O_CREAT|O_WRONLY|O_RDWR", line)
        if f"{run}/" in line and not reads_only:
            found.append((name, counted[name]))
    return found


def _sample(places: list[tuple[str, int]], every: int) -> list[tuple[str, int]]:
    """Every so many of the calls, and at least one of each name."""
    first_of = {call: place for place, (call, _) in reversed(list(enumerate(places)))}
    chosen = set(range(0, len(places), every)) | set(first_of.values())
    return [places[place] for place in sorted(chosen)]


def _fail_once(config: Path, fault: str, directory: Path) -> None:
    process = trials.start(["shard", str(config)], directory / "log", waits=True)
    log = directory / "strace"
    with trials.injected(process, fault, log, directory / "log.gate"):
        pass
    is_killed = process.exitcode == -signal.SIGKILL
    assert is_killed if "KILL" in fault else "(INJECTED)" in log.read_text(), f"{fault} never came"
    findings = verify(Layout(directory / "run"), "full")  # what stands is whole, or is not there
    allowed = {"plan.json", "commits/shard/default/recipe.json"}
    assert {fault.path for fault in findings.faults} <= allowed, findings.faults


def kills(directory: Path, *, count: int = 1000, seed: int = 1) -> Report:
    """SIGKILL a job at random moments until it is done; begin again until `count` kills landed."""
    config = small_job(directory, num_clips=48, num_shards=8)
    run, log = directory / "run", directory / "log"
    for _ in range(2):  # the second is as warm as those that follow
        shutil.rmtree(run, ignore_errors=True)
        began_s = time.monotonic()
        assert trials.run(["shard", str(config)], log) == 0, log.read_text()
        whole_s = time.monotonic() - began_s
    wanted, ids = trials.tree_hash(run), load_plan(Layout(run)).column("id").to_pylist()
    rng = random.Random(seed)
    landed = jobs = with_partial = lost = doubled = recomputed = 0
    shutil.rmtree(run)
    while landed < count:
        before = committed(run)
        process = trials.start(["shard", str(config)], log)
        time.sleep(rng.uniform(0, 1.1 * whole_s))
        process.kill()
        if trials.finish(process) == -signal.SIGKILL:
            landed += 1
            with_partial += bool(partial_files(run / "partial"))
            after = committed(run)
            recomputed += sum(after.get(name) != stamp for name, stamp in before.items())
            continue
        jobs += 1
        assert trials.run(["shard", str(config)], log) == 0, log.read_text()[-2000:]
        assert trials.tree_hash(run) == wanted, f"another tree after {landed} kills"
        indexed = index_of(Layout(run)).column("id").to_pylist()
        lost += len(set(ids) - set(indexed))
        doubled += len(indexed) - len(set(indexed))
        shutil.rmtree(run)
    assert lost == doubled == recomputed == 0
    return {
        "kills": landed,
        "jobs": jobs,
        "with_partial_files": with_partial,
        "lost": lost,
        "doubled": doubled,
        "committed_shards_made_again": recomputed,
    }


def layouts(directory: Path, *, count: int = 20, seed: int = 3) -> Report:
    """The same job with 1, 2, 4, 8 workers or none, killed or not, under four BLAS kernels."""
    config = small_job(directory, num_clips=64, num_shards=16)
    rng, hashes = random.Random(seed), Counter[str]()
    for number in range(count):
        shutil.rmtree(directory / "run", ignore_errors=True)
        workers = (0, 1, 2, 4, 8)[number % 5]
        kernel = ("", "Haswell", "SkylakeX", "Prescott")[number % 4]
        overrides = [f"cluster.kind={'local' if workers else 'inline'}"]
        overrides += [f"cluster.workers={workers}"] if workers else []
        if rng.random() < 0.5:
            _killed_after(rng.uniform(1.0, 4.0), fresh(config, overrides, kernel))
        process = fresh(config, overrides, kernel)
        assert process.wait(timeout=trials.TRIAL_LIMIT_S) == 0, f"layout {number} failed"
        hashes[trials.tree_hash(directory / "run")] += 1
    assert len(hashes) == 1, hashes
    return {"layouts": count, "trees": len(hashes)}


def _killed_after(seconds: float, process: subprocess.Popen[bytes]) -> None:
    time.sleep(seconds)
    process.kill()
    process.wait()
