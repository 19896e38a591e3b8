"""Faults that come from below or from the data: full disks, cut links, clips that kill."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.tls import Keys, make_keys
from shards.events import read_lines
from shards.index import OK
from shards.layout import Layout
from tests.commands import ROOT, command, data_files, run, succeed
from tests.dask_processes import QUICK, scheduler, worker
from tests.processes import wait_until
from tests.torture.hosts import HERE, OtherHost, other_host, small_disk
from tests.torture.job import Report, committed, index_of, small_job
from tests.torture.trials import tree_hash

LIMIT_S = 180.0
DISK_MB = 160
MOST_SHARE = 0.9  # of what a job writes, for which there is room at first
CUT_S = (1.0, 20.0)  # the time-to-live of a worker is 6 s
POISON = "cluster.dask.distributed.worker.preload=[tests.fakes.poison]"


def disk(directory: Path, *, rounds: int = 10, seed: int = 23) -> Report:
    """A job, inline and on workers in turn, that meets a full disk at a random point, is told that
    it will not be waited for, and then is: one tree."""
    rng = random.Random(seed)
    config, expected = _reference(directory, num_clips=48, num_shards=12)
    written = sum(path.stat().st_size for path in _files(directory / "inline"))
    waited = 0
    for number in range(rounds):
        with small_disk(directory, DISK_MB) as place:
            room = int(written * rng.uniform(0.0, MOST_SHARE))
            (place / "ballast").write_bytes(bytes(DISK_MB * 2**20 - 2**20 - room))
            kind = ("inline", "local")[number % 2]
            words = [f"run={place / 'run'}", f"cluster.kind={kind}", "cluster.workers=2"]
            waited += _on_a_full_disk(config, words, place)
            assert tree_hash(place / "run") == expected, f"{room} bytes of room: another tree"
            assert not list((place / "run/partial").iterdir())
    return {"rounds": rounds, "waited": waited}


def _files(run_directory: Path) -> list[Path]:
    return [run_directory / name for name in data_files(run_directory)]


def _on_a_full_disk(config: Path, words: Sequence[str], place: Path) -> int:
    refused = run("pipeline", "shard", config, *words, "cluster.wait_for_disk_s=1")
    assert refused.returncode == 1, refused.stdout + refused.stderr
    assert "No space left on device" in refused.stderr
    assert "Traceback" not in refused.stderr
    done = committed(place / "run")
    process = _driver(config, [*words, "cluster.wait_for_disk_s=60"])
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if "MB needed to go on; waiting 60 s for room" in line:
            time.sleep(0.5)
            (place / "ballast").unlink(missing_ok=True)
    process.stdout.close()
    assert process.wait(LIMIT_S) == 0, "".join(said)
    assert done.items() <= committed(place / "run").items(), "a committed shard was made again"
    return sum("going on" in line and str(place) in line for line in said)


def link(directory: Path, *, rounds: int = 10, seed: int = 24) -> Report:
    """Two hosts, and TLS between them: the link to one is cut at a random moment, for a random
    time. One tree."""
    rng = random.Random(seed)
    config, expected = _reference(directory, num_clips=160, num_shards=20)
    keys, cut_s = make_keys(directory / "keys"), 0.0
    with (
        other_host() as host,
        scheduler(directory, keys, host=HERE) as (_, address),
        worker(directory, address, "near", keys),
    ):
        for number in range(rounds):
            cut_s += _with_a_cut(directory / f"run{number}", config, address, keys, host, rng)
            assert tree_hash(directory / f"run{number}") == expected, f"round {number}: another"
            shutil.rmtree(directory / f"run{number}")
    return {"rounds": rounds, "cut_s": round(cut_s, 1)}


def _with_a_cut(
    run_directory: Path, config: Path, address: str, keys: Keys, host: OtherHost, rng: random.Random
) -> float:
    tls = json.dumps({name: str(path) for name, path in vars(keys).items()})
    words = ["cluster.kind=address", f"cluster.address.scheduler={address}", f"cluster.tls={tls}"]
    seconds = rng.uniform(*CUT_S)
    with worker(config.parent, address, "far", keys, prefix=host.words):
        process = _driver(config, [f"run={run_directory}", *words])
        wait_until(lambda: _at_work(run_directory) == {"near", "far"}, "work on both hosts")
        time.sleep(rng.uniform(0.0, 1.0))
        assert process.poll() is None, "the job was over before the link was cut"
        host.set_link("down")
        time.sleep(seconds)
        host.set_link("up")
        said, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, said
    assert "Traceback" not in said, said
    return seconds


def _at_work(run_directory: Path) -> set[str]:
    """The names of the workers that have begun a task."""
    events = read_lines(run_directory / "events.jsonl")
    return {event["name"] for event in events if event.get("event") == "start"}


def poison(directory: Path, *, rounds: int = 10, seed: int = 25) -> Report:
    """A random clip kills every worker that reads it: it becomes one row, all others are there, and
    a second run makes the same tree."""
    rng = random.Random(seed)
    config = small_job(directory, num_clips=18, num_shards=6)
    ids = sorted(path.stem for path in (directory / "clips/audio").glob("*.flac"))
    seen: set[str] = set()
    for number in range(rounds):
        guilty = rng.choice(ids)
        trees = {
            _poisoned(config, directory / f"run{number}{again}", guilty, ids) for again in "ab"
        }
        assert len(trees) == 1, f"{guilty} kills workers: two trees"
        seen |= trees
    return {"rounds": rounds, "runs": 2 * rounds, "trees": len(seen)}


def _poisoned(config: Path, run_directory: Path, guilty: str, ids: Sequence[str]) -> str:
    words = [POISON, "cluster.kind=local", "cluster.workers=2", "quarantine.max_share=0.5"]
    process = _driver(config, [f"run={run_directory}", *words], POISON=guilty)
    said, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, said
    assert "1 kills_worker" in said
    rows = index_of(Layout(run_directory)).to_pylist()
    assert sorted(row["id"] for row in rows) == ids
    refused = [(row["id"], row["reason"]) for row in rows if row["status"] != OK]
    assert refused == [(guilty, "kills_worker")]
    events = read_lines(run_directory / "events.jsonl")
    assert [event["pieces"] for event in events if event.get("event") == "isolated"] == [[guilty]]
    return tree_hash(run_directory)


def _reference(directory: Path, *, num_clips: int, num_shards: int) -> tuple[Path, str]:
    """A job and the tree of an inline run of it."""
    config = small_job(directory, num_clips, num_shards, seconds=5.0)
    succeed("pipeline", "shard", config, f"run={directory / 'inline'}")
    return config, tree_hash(directory / "inline")


def _driver(config: Path, words: Sequence[str], **env: str) -> subprocess.Popen[str]:
    told: Mapping[str, str] = {**os.environ, **QUICK, **env}
    return subprocess.Popen(
        command("pipeline", "shard", config, *words),
        cwd=ROOT,
        env=told,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
