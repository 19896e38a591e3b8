"""`make shard CONFIG=configs/audioset.yaml ARGS=cluster.kind=slurm`, on a made AudioSet, with a
batch system whose jobs are killed at random moments, whole nodes at once."""

from __future__ import annotations

import os
import random
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from pipeline.synth import write_set
from tests.commands import ROOT
from tests.fakes import batch_system
from tests.processes import of_groups, wait_until
from tests.torture.job import Report, committed
from tests.torture.trials import tree_hash

CLIPS, SHARDS, JOBS = 120, 24, 2
LIMIT_S = 400.0
BETWEEN_S = (0.0, 1.0)  # two kills: one worker alone would be done with all in two seconds
END_LIMIT_S = 20.0


def jobs(directory: Path, *, rounds: int = 10, kills: int = 4, seed: int = 22) -> Report:
    """Rounds, up to `kills` jobs killed in each; all end at the tree of an inline run."""
    rng = random.Random(seed)
    clips = directory / "clips"
    write_set(clips, CLIPS, seed=5, seconds=6.0)
    expected = _made(clips, directory / "inline", ["cluster.kind=inline"], dict(os.environ))
    killed = submitted = 0
    for number in range(rounds):
        system = directory / f"system{number}"
        env = {**os.environ, **batch_system.install(system)}
        place = directory / f"run{number}"
        process = _make(clips, place, _on_slurm(), env)
        killed += _kill_jobs(process, place, Path(env[batch_system.STATE]), rng, kills)
        said, _ = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0, said
        assert "Traceback" not in said, said
        assert tree_hash(place) == expected, f"round {number}: another tree"
        submitted += _ended(batch_system.groups(Path(env[batch_system.STATE])))
        shutil.rmtree(place)
    return {"rounds": rounds, "jobs_killed": killed, "jobs_submitted": submitted}


def _on_slurm() -> list[str]:
    return ["cluster.kind=slurm", f"cluster.workers={JOBS}", "cluster.slurm.interface=lo"]


def _made(clips: Path, place: Path, words: Sequence[str], env: Mapping[str, str]) -> str:
    process = _make(clips, place, words, env)
    said, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, said
    return tree_hash(place)


def _make(
    clips: Path, place: Path, words: Sequence[str], env: Mapping[str, str]
) -> subprocess.Popen[str]:
    """The command as a user types it; the lists are those of the made clips."""
    overrides = [f"run={place}", f"source.root={clips}", "source.ontology=null"]
    overrides += [f"source.classes={clips / 'class_labels_indices.csv'}"]
    for name, listed in {"balanced": "train", "eval": "eval"}.items():
        overrides.append(f"source.sets.{name}.segments={clips / listed}_segments.csv")
        overrides.append(f"source.sets.{name}.files=audio/{{id}}.flac")
    overrides += [f"shards.min_shards={SHARDS}", *words]
    return subprocess.Popen(
        [
            "make",
            "-o",
            ".venv/.ready",
            "shard",
            "CONFIG=configs/audioset.yaml",
            f"ARGS={shlex.join(overrides)}",
        ],
        cwd=ROOT,
        env=dict(env),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _kill_jobs(
    process: subprocess.Popen[str], place: Path, state: Path, rng: random.Random, most: int
) -> int:
    """SIGKILL whole jobs while the driver works, from its first shard on; returns how many."""
    killed: set[int] = set()
    wait_until(lambda: committed(place) or process.poll() is not None, "a shard", LIMIT_S)
    while process.poll() is None and len(killed) < most:
        time.sleep(rng.uniform(*BETWEEN_S))
        alive = [group for group in batch_system.groups(state) if group not in killed]
        alive = [group for group in alive if psutil.pid_exists(group)]
        if alive and process.poll() is None:
            victim = rng.choice(alive)
            with suppress(ProcessLookupError):
                os.killpg(victim, signal.SIGKILL)
                killed.add(victim)
    return len(killed)


def _ended(groups: Sequence[int]) -> int:
    """Wait for the end of all jobs; returns how many there were."""
    wait_until(lambda: not of_groups(groups), "the end of every job", END_LIMIT_S)
    return len(groups)
