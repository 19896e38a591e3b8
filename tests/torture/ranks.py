"""Ranks of a training that only reads: what each step saw is logged, a cursor is kept now and then.

As under torchrun, ranks are processes that meet in every step, each with loader processes of its
own, and the loss of one ends them all.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil

from configs.errors import TrainingFailed
from configs.load import load_config
from configs.schema import TrainConfig
from shards.layout import Layout
from shards.stream.sampler import Cursor
from shards.stream.schedule import Place, World
from tests.processes import family, is_at_work

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["torch", "train.data", "train.loader"])
NUM_RANKS, NUM_WORKERS = 2, 2
BATCH, EPOCHS, KEEP_EVERY = 8, 3, 5
END_LIMIT_S = 60.0  # for a rank to end whose loader worker was killed

Seen = dict[tuple[int, int], frozenset[int]]  # rows by the cursor after the step


@dataclass(frozen=True)
class Reading:
    """One training that is killed and goes on: what it reads, and where it writes."""

    run: Path
    place: Path
    seed: int

    @property
    def cursor(self) -> Path:
        return self.place / "cursor.json"

    def log(self, attempt: int, rank: int) -> Path:
        return self.place / f"attempt{attempt:04d}-rank{rank}.jsonl"

    def rows(self) -> list[int]:
        """The rows that every epoch has to show once."""
        rows: list[int] = _data(self.run).rows("train").tolist()
        return rows


def start(reading: Reading, attempt: int) -> list[BaseProcess]:
    """Start all ranks, from the cursor that was kept last."""
    ranks = [
        _FORKS.Process(target=_rank, args=(reading, attempt, rank)) for rank in range(NUM_RANKS)
    ]
    for process in ranks:
        process.start()
    return ranks


def everyone(ranks: list[BaseProcess]) -> list[psutil.Process]:
    """Ranks and their loader workers, as far as they are there."""
    return [process for rank in ranks for process in family(rank.pid or 0) if is_at_work(process)]


def end(ranks: list[BaseProcess], victim: psutil.Process) -> str:
    """Kill one process with SIGKILL, and let the rest end as torchrun would; returns what it was.

    A rank whose loader worker is gone has to notice by itself, unless that had done all its work.
    """
    owner = next((rank for rank in ranks if rank.pid == victim.pid), None)
    parent = None
    with suppress(psutil.NoSuchProcess):
        parent = None if owner else victim.ppid()
        victim.send_signal(signal.SIGKILL)
    for rank in ranks:
        if rank.pid == parent:
            rank.join(END_LIMIT_S)
            assert rank.exitcode is not None, "a rank waits for a loader worker that was killed"
    for rank in ranks:
        rank.kill()
        rank.join()
    return "worker" if owner is None else "rank"


def seen(reading: Reading, attempt: int) -> Seen:
    """What all ranks together saw in the steps that all of them logged, rows that count."""
    logs = [dict(_lines(reading.log(attempt, rank))) for rank in range(NUM_RANKS)]
    both = set.intersection(*map(set, logs))
    for step in both:
        rows = [row for log in logs for row in log[step]]
        assert len(rows) == len(set(rows)), f"{step}: two ranks saw the same clip"
    return {step: frozenset(row for log in logs for row in log[step]) for step in both}


def _lines(path: Path) -> Iterator[tuple[tuple[int, int], list[int]]]:
    """A line that a kill cut short is none."""
    text = path.read_text() if path.exists() else ""
    for line in text.splitlines(keepends=True):
        if line.endswith("\n"):
            epoch, position, rows = json.loads(line)
            yield (epoch, position), rows


def _data(run: Path) -> Any:
    from train.data import open_data

    config = load_config(run)
    return open_data(Layout(run), config.codebook.name, config.split, None, config.data)


def _rank(reading: Reading, attempt: int, rank: int) -> None:
    """One rank; ends with 1 where a loader worker was killed."""
    try:
        _read(reading, attempt, rank)
    except TrainingFailed:
        sys.exit(1)


def _read(reading: Reading, attempt: int, rank: int) -> None:
    """What a rank does, from its start to its end."""
    import torch
    from torch import distributed

    from train.loader import LoaderProcesses

    multiprocessing.set_start_method("fork", force=True)  # of loader workers, as a user has it
    meeting = f"file://{reading.place}/attempt{attempt:04d}.meeting"
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=NUM_RANKS)
    data = _data(reading.run)
    settings = TrainConfig(epochs=EPOCHS, batch_size=BATCH, seed=reading.seed)
    stream = data.stream(data.rows("train"), settings, World(rank, NUM_RANKS))
    place = Place(0, 0)
    if reading.cursor.exists():
        place = stream.sampler.place(Cursor.from_json(json.loads(reading.cursor.read_text())))
    log = os.open(reading.log(attempt, rank), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for done, step in enumerate(LoaderProcesses(stream, NUM_WORKERS).steps(place), 1):
        rows = [row for b in step.batches for row in b.rows_B[b.weights_B.numpy() > 0].tolist()]
        total = torch.tensor([len(rows)])
        distributed.all_reduce(total)
        assert int(total) == step.num_examples
        os.write(log, f"{json.dumps([step.after.epoch, step.after.position, rows])}\n".encode())
        if done % KEEP_EVERY == 0:
            distributed.barrier()
            _keep(reading, step.after, rank)


def _keep(reading: Reading, cursor: Cursor, rank: int) -> None:
    """As a checkpoint: of a step that all ranks have done."""
    if rank == 0:
        partial = reading.cursor.with_suffix(".partial")
        partial.write_text(json.dumps(cursor.to_json()))
        partial.replace(reading.cursor)
