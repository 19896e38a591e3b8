"""`make bench NAME=cluster`: what Dask costs, in wall time, on this machine.

64 tasks of about 10 s, each decoding as many clips to log-mel as take that long, on four sides:

    inline   in one process, one after the other
    one      on one local Dask worker
    plain    in two plain processes that share nothing, half of them each
    two      on two local Dask workers

Start-up is not counted (a warm-up task comes first); every side has one BLAS thread a process. The
sides take turns in rounds, so that a machine which is slower for a while is slower for all of them;
figures are medians over the rounds. Then come no-op tasks, through the same loop, on two workers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distributed import Client

from cluster.launch import open_client
from cluster.submit import run_tasks
from configs.cluster import ClusterConfig
from configs.frames import MelFrames
from configs.schema import AudioConfig
from pipeline.audio.limits import Window
from pipeline.audio.sandbox import Given, own_sandbox
from pipeline.synth import write_set

ROOT = Path(__file__).resolve().parent.parent
CLIP_S = 10.0
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
SIDES = ("inline", "one", "plain", "two")


def main() -> int:
    args = _arguments()
    if args.side:
        return _side(args)
    with tempfile.TemporaryDirectory() as work:
        clip = _clip(Path(work))
        clips = args.clips or _clips_in(args.task_s, clip)
        print(f"{args.shards} tasks of {clips} clips of {CLIP_S:g} s a side, {args.rounds} rounds")
        rounds = [_round(args, number, clip, clips) for number in range(args.rounds)]
        noop_ms = [_noop_ms(args.noops) for _ in range(args.noop_rounds if args.noops else 0)]
    print(json.dumps(_report(args, rounds, noop_ms)))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Dask against no Dask, the same tasks")
    parser.add_argument("--shards", type=int, default=64, help="tasks a side, over all rounds")
    parser.add_argument("--task-s", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--noops", type=int, default=20_000)
    parser.add_argument("--noop-rounds", type=int, default=3)
    parser.add_argument("--clips", type=int, help="clips a task, not as many as task-s holds")
    parser.add_argument("--clip", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    return parser.parse_args()


def _clip(work: Path) -> Path:
    write_set(work, 1, seed=5, seconds=CLIP_S)
    return next(work.rglob("*.flac"))


def _clips_in(seconds: float, clip: Path) -> int:
    """Clips that a task of so many seconds decodes here."""
    decode_clips((clip, 20))
    began_s = time.monotonic()
    decode_clips((clip, 200))
    return max(1, round(200 * seconds / (time.monotonic() - began_s)))


def decode_clips(clip_and_count: tuple[Path, int]) -> int:
    """The work of a shard as its stage does it, in a decoder process, but for files written."""
    path, count = clip_and_count
    sandbox, data = own_sandbox(), path.read_bytes()
    audio, frames = AudioConfig(store="none"), MelFrames()
    window = Window(0.0, None, 60.0)
    num_frames = 0
    for _ in range(count):
        sandbox.buffer[: len(data)] = data
        hashlib.sha256(data).hexdigest()
        num_frames += len(sandbox.clip(Given(len(data)), window, audio, frames).frames_TM)
    return num_frames


# --- rounds ----------------------------------------------------------------------------------


def _round(args: argparse.Namespace, number: int, clip: Path, clips: int) -> dict[str, float]:
    """Wall seconds of each side, in an order that turns from round to round."""
    tasks = max(2, args.shards // args.rounds)
    turn = number % len(SIDES)
    seconds = {side: _timed(side, clip, clips, tasks) for side in (*SIDES[turn:], *SIDES[:turn])}
    shown = ", ".join(f"{side} {seconds[side]:.2f} s" for side in SIDES)
    print(f"round {number + 1}: {shown}", flush=True)
    return seconds


def _timed(side: str, clip: Path, clips: int, tasks: int) -> float:
    """The seconds of one side, each in new processes."""
    if side == "plain":
        return _together([_start("inline", clip, clips, tasks // 2) for _ in range(2)])
    return _together([_start(side, clip, clips, tasks)])


def _start(side: str, clip: Path, clips: int, tasks: int) -> subprocess.Popen[str]:
    words = ["--side", side, "--clip", str(clip), "--clips", str(clips), "--shards", str(tasks)]
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.cluster", *words],
        cwd=ROOT,
        env={**os.environ, **ONE_THREAD},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _together(processes: list[subprocess.Popen[str]]) -> float:
    """Wall seconds from the word to the last end, of processes that are warm."""
    for process in processes:
        _expect(process, "ready")
    began_s = time.monotonic()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        _expect(process, "done")
    seconds = time.monotonic() - began_s
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    return seconds


def _expect(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == word:
            return
    raise RuntimeError(f"a side ended before it said {word}: exit code {process.wait()}")


def _side(args: argparse.Namespace) -> int:
    """One side: warm up, wait for the word, work."""
    workers = {"inline": 0, "one": 1, "two": 2}[args.side]
    with _client(workers) as client:
        _decode_all(client, args.clip, max(1, workers), 2)
        print("ready", flush=True)
        sys.stdin.readline()
        _decode_all(client, args.clip, args.shards, args.clips)
        print("done", flush=True)
    return 0


@contextmanager
def _client(workers: int) -> Iterator[Client | None]:
    kind: Any = "local" if workers else "inline"
    config = ClusterConfig(kind=kind, workers=workers or None)
    with tempfile.TemporaryDirectory() as place, open_client(config, Path(place)) as opened:
        yield opened()


def _decode_all(client: Client | None, clip: Path, tasks: int, clips: int) -> None:
    arguments = {f"decode-{number:06d}": (clip, clips) for number in range(tasks)}
    for outcome in run_tasks(client, decode_clips, arguments):
        if outcome.error is not None:
            raise outcome.error


# --- no-ops and the report -------------------------------------------------------------------


def nothing(number: int) -> int:
    return number


def _noop_ms(count: int) -> float:
    """Milliseconds that a task costs when it does nothing, driver and scheduler included."""
    with _client(2) as client:
        list(run_tasks(client, nothing, {f"warm-{number}": number for number in range(100)}))
        arguments = {f"noop-{number:06d}": number for number in range(count)}
        began_s = time.monotonic()
        ended = sum(1 for _ in run_tasks(client, nothing, arguments))
        seconds = time.monotonic() - began_s
    assert ended == count
    return 1000 * seconds / count


def _report(
    args: argparse.Namespace, rounds: list[dict[str, float]], noop_ms: list[float]
) -> dict[str, Any]:
    overhead = _spread(rounds, lambda s: s["one"] / s["inline"] - 1)
    share = _spread(rounds, lambda s: s["plain"] / s["two"])
    print(f"{'one worker, more than inline':<34}{overhead[1]:8.4f}  ({_range(overhead)})")
    print(f"{'two workers, of two plain processes':<34}{share[1]:8.4f}  ({_range(share)})")
    return {
        "bench": "cluster",
        "dask_overhead": round(overhead[1], 4),
        "vs_two_processes": round(share[1], 4),
        "ms_per_task": round(statistics.median(noop_ms), 2) if noop_ms else None,
        "two_plain_vs_one": round(_spread(rounds, lambda s: s["inline"] / s["plain"])[1], 3),
        "tasks": args.shards,
        "rounds": args.rounds,
        "noops": args.noops,
    }


def _spread(
    rounds: list[dict[str, float]], figure: Callable[[dict[str, float]], float]
) -> tuple[float, float, float]:
    """Least, median and most of a figure over the rounds."""
    values = sorted(map(figure, rounds))
    return values[0], statistics.median(values), values[-1]


def _range(spread: tuple[float, float, float]) -> str:
    return f"{spread[0]:.4f} to {spread[2]:.4f}"


if __name__ == "__main__":
    sys.exit(main())
