"""`make torture NAME=ingest`: the promises P1 to P6 and P12 of the shard stage, tried until they
break or hold.

    points     every file system call of a job, once each with SIGKILL, ENOSPC and EIO
    kills      SIGKILL at random moments, until the job is done, over and over
    flips      one flipped bit anywhere in a run: found by `verify`, refused by readers
    layouts    1 to 8 workers, orders, kills, BLAS kernels: one tree
    broken     ESC-10 and 300 broken files in one run whose workers are killed
    scale      memory and CPU time at 1 and at 10 times the clips

Seeded; a part that is done is not run again after an interruption (delete its file to do so). Ends
in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from pipeline.synth import write_set
from shards.index import QUARANTINED, open_shards, read_index
from shards.layout import Layout
from shards.plan import load as load_plan
from shards.verify import verify
from tests.broken import corpus
from tests.commands import ROOT, partial_files
from tests.torture import trials

FILE_CALLS = ("openat", "write", "pwrite64", "fsync", "rename", "link", "mkdir", "unlink", "rmdir")
FAULTS = ("signal=KILL", "error=ENOSPC", "error=EIO")
ESC10 = ROOT / "../shared/data/esc10"

Report = dict[str, Any]


def small_job(directory: Path, num_clips: int = 16, num_shards: int = 2, **over: Any) -> Path:
    """A config for generated clips of 0.4 s in one process; nothing is made yet."""
    clips = directory / "clips"
    if not clips.exists():
        write_set(clips, num_clips, seed=7, seconds=over.pop("seconds", 0.4))
    tree = {
        "run": str(directory / "run"),
        "source": {
            "kind": "audioset",
            "root": str(clips),
            "classes": str(clips / "class_labels_indices.csv"),
            "sets": {
                name: {"segments": str(clips / f"{name}_segments.csv"), "files": "audio/{id}.flac"}
                for name in ("train", "eval")
            },
        },
        "shards": {"clips_per_shard": -(-num_clips // num_shards), "min_shards": num_shards},
        "cluster": {"kind": "inline"},
        **over,
    }
    path = directory / "config.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


# --- points ---------------------------------------------------------------------------------------


def points(directory: Path, *, every: int = 1) -> Report:
    """Fail every file system call on the run's files, one a trial; then run again and compare."""
    config = small_job(directory, num_clips=6)
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
    with trials.injected(process, fault, directory / "strace", directory / "log.gate"):
        pass
    findings = verify(Layout(directory / "run"), "full")  # what stands is whole, or is not there
    allowed = {"plan.json", "commits/shard/default/recipe.json"}
    assert {fault.path for fault in findings.faults} <= allowed, findings.faults


# --- kills ----------------------------------------------------------------------------------------


def kills(directory: Path, *, count: int = 1000, seed: int = 1) -> Report:
    """SIGKILL a job at random moments until it is done; begin again until `count` kills landed."""
    config = small_job(directory, num_clips=48, num_shards=8)
    run, log = directory / "run", directory / "log"
    began_s = time.monotonic()
    assert trials.run(["shard", str(config)], log) == 0, log.read_text()
    whole_s = time.monotonic() - began_s
    wanted, ids = trials.tree_hash(run), load_plan(Layout(run)).column("id").to_pylist()
    rng = random.Random(seed)
    landed = jobs = with_partial = lost = doubled = recomputed = 0
    shutil.rmtree(run)
    while landed < count:
        committed = _committed(run)
        process = trials.start(["shard", str(config)], log)
        time.sleep(rng.uniform(0, 1.1 * whole_s))
        process.kill()
        if trials.finish(process) == -signal.SIGKILL:
            landed += 1
            with_partial += bool(partial_files(run / "partial"))
            recomputed += sum(
                _committed(run).get(name) != stamp for name, stamp in committed.items()
            )
            continue
        jobs += 1
        assert trials.run(["shard", str(config)], log) == 0, log.read_text()[-2000:]
        assert trials.tree_hash(run) == wanted, f"another tree after {landed} kills"
        indexed = _index(Layout(run)).column("id").to_pylist()
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


def _index(layout: Layout) -> pa.Table:
    """The index of a sealed run, all shards."""
    return read_index(layout, open_shards(layout).records)


def _committed(run: Path) -> dict[str, int]:
    """Commit records and when each was written."""
    paths = (run / "commits/shard/default").glob("0*.json")
    return {path.name: path.stat().st_mtime_ns for path in paths}


# --- flips ----------------------------------------------------------------------------------------


def flips(directory: Path, *, count: int = 10_000, seed: int = 2) -> Report:
    """Flip one bit of one data file, and see that `verify` finds it; undo; again."""
    config = small_job(directory)
    run = directory / "run"
    assert trials.run(["all", str(config), "codebook.k=8"], directory / "log") == 0
    layout, rng = Layout(run), random.Random(seed)
    assert verify(layout, "full").to_json()["ok"]
    files = [run / name for name in trials.data_files(run)]
    missed, by_kind = [], Counter[str]()
    for number in range(count):
        path = files[number % len(files)]
        original = path.read_bytes()
        place, bit = rng.randrange(len(original)), rng.randrange(8)
        changed = bytearray(original)
        changed[place] ^= 1 << bit
        path.write_bytes(changed)
        findings = verify(layout, "full")
        path.write_bytes(original)
        by_kind[path.relative_to(run).parts[0]] += 1
        if not findings.faults:
            missed.append(f"{path.relative_to(run)} byte {place} bit {bit}")
    assert not missed, missed[:10]
    return {"flips": count, "missed": len(missed), "files": len(files), "by_kind": dict(by_kind)}


# --- layouts --------------------------------------------------------------------------------------


def layouts(directory: Path, *, count: int = 20, seed: int = 3) -> Report:
    """The same job with 1, 2, 4, 8 workers or none, killed or not, under two BLAS kernels."""
    config = small_job(directory, num_clips=64, num_shards=16)
    rng, hashes = random.Random(seed), Counter[str]()
    for number in range(count):
        shutil.rmtree(directory / "run", ignore_errors=True)
        workers = (0, 1, 2, 4, 8)[number % 5]
        kernel = ("", "Haswell", "SkylakeX", "Prescott")[number % 4]
        overrides = [f"cluster.kind={'local' if workers else 'inline'}"]
        overrides += [f"cluster.workers={workers}"] if workers else []
        if rng.random() < 0.5:
            _killed_after(rng.uniform(1.0, 4.0), _fresh(config, overrides, kernel))
        process = _fresh(config, overrides, kernel)
        assert process.wait(timeout=trials.TRIAL_LIMIT_S) == 0, f"layout {number} failed"
        hashes[trials.tree_hash(directory / "run")] += 1
    assert len(hashes) == 1, hashes
    return {"layouts": count, "trees": len(hashes)}


def _fresh(config: Path, overrides: list[str], kernel: str) -> subprocess.Popen[bytes]:
    """`pipeline shard` as a user starts it, under a BLAS kernel."""
    env = {
        **os.environ,
        "PYTHONHASHSEED": str(len(kernel)),
        "TZ": "Asia/Tokyo" if kernel else "UTC",
    }
    env.pop("OPENBLAS_CORETYPE", None)
    if kernel:
        env["OPENBLAS_CORETYPE"] = kernel
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", "shard", str(config), *overrides],
        cwd=ROOT,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _killed_after(seconds: float, process: subprocess.Popen[bytes]) -> None:
    time.sleep(seconds)
    process.kill()
    process.wait()


# --- broken ---------------------------------------------------------------------------------------


def broken(directory: Path, *, seed: int = 4, worker_kills: int = 6) -> Report:
    """ESC-10 (or generated clips) and the broken corpus; workers are killed while they decode."""
    reasons = _write_zoo(directory / "audio")
    num_good = sum(1 for path in (directory / "audio/good").rglob("*") if path.is_file())
    tree = {
        "run": str(directory / "run"),
        "source": {"kind": "folder", "root": str(directory / "audio")},
        "shards": {"clips_per_shard": 24},
        "quarantine": {"max_share": 0.9},
        "cluster": {"kind": "local", "workers": 2},
    }
    config = directory / "config.yaml"
    config.write_text(yaml.safe_dump(tree))
    killed = _run_with_worker_kills(config, random.Random(seed), worker_kills)
    layout = Layout(directory / "run")
    index = _index(layout)
    ids = index.column("id").to_pylist()
    planned = load_plan(layout).column("id").to_pylist()
    refused = {
        row["id"]: row["reason"] for row in index.to_pylist() if row["status"] == QUARANTINED
    }
    wrong = {
        name: (refused.get(name), kind.reason)
        for name, kind in reasons.items()
        if name not in refused or not kind.is_reason(refused[name])
    }
    assert not wrong, wrong
    assert set(refused) == set(reasons), set(refused) - set(reasons)
    assert sorted(ids) == sorted(planned)
    return {
        "clips": len(ids),
        "good": num_good,
        "broken": len(reasons),
        "kinds": len({kind.kind for kind in reasons.values()}),
        "lost": len(set(planned) - set(ids)),
        "doubled": len(ids) - len(set(ids)),
        "unnamed": len(wrong),
        "worker_kills": killed,
    }


def _write_zoo(root: Path) -> dict[str, Any]:
    """Good recordings under good/, broken ones under broken/; the reasons of these by id."""
    reasons = {}
    (root / "broken").mkdir(parents=True)
    for number, item in enumerate(corpus()):
        name = f"broken/{number:03d}-{item.name}"
        if Path(name).suffix not in KNOWN:
            name += ".wav"
        (root / name).write_bytes(item.data)
        reasons[name] = item
    if ESC10.is_dir():
        for path in ESC10.rglob("*.ogg"):
            (root / "good").mkdir(exist_ok=True)
            shutil.copyfile(path, root / "good" / path.name)
    else:
        write_set(root / "good", 64, seed=9, seconds=1.0)
    return reasons


KNOWN = (".wav", ".flac", ".mp3")


def _run_with_worker_kills(config: Path, rng: random.Random, most: int) -> int:
    """Run the job, killing a worker now and then; run it again until it ends well."""
    killed = 0
    for _ in range(most + 2):
        process = _fresh(config, [], "")
        while process.poll() is None:
            time.sleep(rng.uniform(0.5, 1.5))
            workers = trials.workers_of(process.pid)
            if workers and killed < most:
                rng.choice(workers).kill()
                killed += 1
        if process.returncode == 0:
            return killed
    raise AssertionError(f"the job never ended well: exit {process.returncode}")


# --- scale ----------------------------------------------------------------------------------------


def scale(directory: Path, *, clips: int = 96, times: int = 10, rounds: int = 5) -> Report:
    """Peak memory of a worker, and CPU time a clip, at 1 and at `times` times the clips."""
    report: Report = {}
    for factor in (1, times):
        place = directory / str(factor)
        place.mkdir(exist_ok=True)
        config = small_job(place, clips * factor, 8 * factor, seconds=10.0, audio={"store": "none"})
        samples = [_measured(config, clips * factor) for _ in range(rounds)]
        report[f"cpu_ms_per_clip_{factor}x"] = round(statistics.median(s[0] for s in samples), 2)
        report[f"peak_mib_{factor}x"] = round(statistics.median(s[1] for s in samples), 1)
    for key in ("cpu_ms_per_clip", "peak_mib"):
        ratio = report[f"{key}_{times}x"] / report[f"{key}_1x"]
        report[f"{key}_growth"] = round(ratio, 3)
        assert abs(ratio - 1) <= 0.1, report
    return report


def _measured(config: Path, num_clips: int) -> tuple[float, float]:
    """CPU milliseconds a clip from the first committed shard to the last, and the peak memory of
    the worker with its decoder, in MiB."""
    run = Path(yaml.safe_load(config.read_text())["run"])
    shutil.rmtree(run, ignore_errors=True)
    process = _fresh(config, [], "")
    first: tuple[int, float] | None = None
    cpu_s = peak_mib = 0.0
    while process.poll() is None:
        done = len(_committed(run))
        family = [process.pid, *(child.pid for child in trials.children_of(process.pid))]
        usage = [usage for pid in family if (usage := trials.usage(pid)) is not None]
        cpu_s = max(cpu_s, sum(cpu for cpu, _ in usage))
        peak_mib = max(peak_mib, sum(peak for _, peak in usage))
        if done and first is None:
            first = done, cpu_s
        time.sleep(0.01)
    assert process.returncode == 0
    assert first is not None
    num_shards = len(_committed(run))
    clips = num_clips * (num_shards - first[0]) / num_shards
    return 1000 * (cpu_s - first[1]) / clips, peak_mib


# --- the command ------------------------------------------------------------------------------

PARTS: dict[str, Callable[[Path], Report]] = {
    "points": points,
    "kills": kills,
    "flips": flips,
    "layouts": layouts,
    "broken": broken,
    "scale": scale,
}


def main() -> int:
    """Run what has not been run, in order; print each part's figures as it ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], default=list(PARTS))
    parser.add_argument("--directory", type=Path, default=ROOT / "runs/torture/ingest")
    args = parser.parse_args()
    reports: Report = {}
    for name in args.parts or PARTS:
        place = args.directory / name
        kept = args.directory / f"{name}.json"
        if not kept.exists():
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            began_s = time.monotonic()
            report = PARTS[name](place)
            report["seconds"] = round(time.monotonic() - began_s, 1)
            kept.write_text(json.dumps(report))
            shutil.rmtree(place)
        reports[name] = json.loads(kept.read_text())
        print(f"{name}: {json.dumps(reports[name])}", flush=True)
    print(json.dumps({"torture": "ingest", **reports}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
