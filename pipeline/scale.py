"""What a job takes at scale: tasks, scheduler, disk, network, hours; pure functions of its size.

Every constant was measured on one machine (a virtual one with 2 cores), on 2026-11-21, and says by
what. Hours hold for cores of that speed, and for a disk and a network that keep up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from textwrap import wrap

from pipeline.pace import duration

# `make bench NAME=ingest`: 48 kHz, 24-bit stereo FLAC of 10 s, one core, libFLAC on the machine.
CORE_MS_PER_AUDIO_S = {"flac": 2.1, "source": 2.2, "none": 1.65}
# A task of 1,024 clips that are all missing, its rows read from a plan of 2,041,789.
SHARD_OVERHEAD_S = 0.12
# 20,000 no-op tasks through cluster.submit on two local workers: CPU time of the one process that
# is driver and scheduler.
SCHEDULER_MS_PER_TASK = 3.6
# `make bench NAME=plan`; and reading the records of 80 shards and sealing them.
PLAN_US_PER_CLIP, SEAL_MS_PER_SHARD = 6.0, 5.0
# AudioSet on the Hub (agkphysics/AudioSet): 48 kHz, 24-bit FLAC, 1.385 MB for 10 s on average.
SOURCE_BYTES_PER_AUDIO_S = 138_500.0
# Shards of 128 and 1,024 clips, and a plan of 2,041,789.
INDEX_BYTES_PER_CLIP, PLAN_BYTES_PER_CLIP = 95.0, 29.0
RECORD_BYTES, RECORD_BYTES_PER_BIN = 1_100.0, 52.0
# Pickled: what the scheduler passes on to a worker, and back.
TASK_BYTES, RECEIPT_BYTES = 1_000.0, 3_400.0

PLACES = {"workstation, 2 cores": 2, "workstation, 16 cores; 16 workers": 16, "256 workers": 256}
SLOW_MB_PER_S, FAST_MB_PER_S = 100, 1_000
WIDTH = 100


@dataclass(frozen=True)
class Job:
    """The size of a job.

    Args:
        num_tasks: shards.
        num_clips: of all of them.
        audio_s: seconds of audio.
        core_ms_per_audio_s: of one core.
        read_bytes: of the source.
        written_bytes: by all tasks, each kind of file by its name.
        later_bytes: by later stages.
    """

    num_tasks: int
    num_clips: int
    audio_s: float
    core_ms_per_audio_s: float
    read_bytes: float
    written_bytes: Mapping[str, float]
    later_bytes: Mapping[str, float] = field(default_factory=dict)

    @property
    def task_s(self) -> float:
        """Seconds that a task takes on one core."""
        return self.audio_s * self.core_ms_per_audio_s / 1e3 / self.num_tasks + SHARD_OVERHEAD_S

    @property
    def task_written_bytes(self) -> float:
        return sum(self.written_bytes.values()) / self.num_tasks


@dataclass(frozen=True)
class Load:
    """What a job asks of a place with so many workers, while all of them are at work."""

    seconds: float
    tasks_per_s: float
    scheduler_share: float  # of one core
    read_mb_per_s: float
    write_mb_per_s: float


def load(job: Job, num_workers: int) -> Load:
    """All workers are alike and have a core each: the last round may leave some without a task.
    Where tasks are so short that the scheduler has no time to spare, it sets the pace."""
    rounds = -(-job.num_tasks // num_workers)
    scheduler_s = SCHEDULER_MS_PER_TASK / 1e3
    tasks_per_s = min(min(num_workers, job.num_tasks) / job.task_s, 1 / scheduler_s)
    return Load(
        seconds=driver_s(job) + max(rounds * job.task_s, job.num_tasks * scheduler_s),
        tasks_per_s=tasks_per_s,
        scheduler_share=tasks_per_s * scheduler_s,
        read_mb_per_s=tasks_per_s * job.read_bytes / job.num_tasks / 1e6,
        write_mb_per_s=tasks_per_s * job.task_written_bytes / 1e6,
    )


def driver_s(job: Job) -> float:
    """Seconds before the first task and after the last one: the plan, and the seal."""
    return job.num_clips * PLAN_US_PER_CLIP / 1e6 + job.num_tasks * SEAL_MS_PER_SHARD / 1e3


def most_workers(job: Job) -> int:
    """Workers that keep the core of a scheduler busy: with more, they wait for it."""
    return int(job.task_s / (SCHEDULER_MS_PER_TASK / 1e3))


def index_bytes(num_clips: int) -> float:
    return num_clips * INDEX_BYTES_PER_CLIP


def record_bytes(num_tasks: int, num_bins: int) -> float:
    return num_tasks * (RECORD_BYTES + RECORD_BYTES_PER_BIN * num_bins)


def seconds_at(job: Job, num_workers: int, read_mb_per_s: float) -> float:
    """The time where the source gives no more than so much to all workers together."""
    return max(load(job, num_workers).seconds, driver_s(job) + job.read_bytes / 1e6 / read_mb_per_s)


def describe(job: Job, read_from: str) -> list[str]:
    """Lines for people, WIDTH columns; `read_from` says where the size of the source is from."""
    disk = {**job.written_bytes, "plan": job.num_clips * PLAN_BYTES_PER_CLIP}
    listed = ", ".join(f"{name} {size(taken)}" for name, taken in disk.items())
    later = "".join(f"; later {name} {size(taken)}" for name, taken in job.later_bytes.items())
    return [
        *_entry(
            "tasks",
            f"{job.num_tasks:,}, one a shard: {job.num_clips / job.num_tasks:,.0f} clips, "
            f"{job.task_s:.1f} s of one core, {size(job.read_bytes / job.num_tasks)} read, "
            f"{size(job.task_written_bytes)} written",
        ),
        *_entry("disk", f"{listed}: {size(sum(disk.values()))} in all{later}"),
        *_entry(
            "network",
            f"{size(job.read_bytes)} to read ({read_from}); through the scheduler "
            f"{size(TASK_BYTES)} to the worker and {size(RECEIPT_BYTES)} back, a task",
        ),
        "",
        *table(job),
        "",
        *wrap(_assumed(job), WIDTH),
    ]


def _entry(title: str, text: str) -> list[str]:
    return wrap(text, WIDTH, initial_indent=f"{title:<9}", subsequent_indent=" " * 9)


def _assumed(job: Job) -> str:
    slow_s = job.read_bytes / 1e6 / SLOW_MB_PER_S
    return (
        f"Assumed: cores as measured ({job.core_ms_per_audio_s:g} ms a second of 48 kHz, 24-bit "
        "stereo FLAC, decoded by libFLAC), one a worker, all there from the start; two threads of "
        "one core give 1.6 to 1.7 times one, not 2. `time` is for disks and a network that keep up "
        "with these MB/s. With fewer, they decide: `at 1 GB/s` is for a source that gives no more "
        f"than that to all workers together; at {SLOW_MB_PER_S} MB/s, as of a hard disk, reading "
        f"alone takes {duration(slow_s)}. Of a scheduler's core a task takes "
        f"{SCHEDULER_MS_PER_TASK:g} ms: {most_workers(job):,} workers would keep it busy."
    )


def table(job: Job) -> list[str]:
    """A line a place."""
    head = f"{'where':<33}{'time':>12}{'at 1 GB/s':>12}{'tasks/s':>9}{'scheduler':>11}"
    lines = [f"{head}{'read MB/s':>11}{'write MB/s':>12}"]
    for place, num_workers in PLACES.items():
        asked, at_s = load(job, num_workers), seconds_at(job, num_workers, FAST_MB_PER_S)
        lines.append(
            f"{place:<33}{duration(asked.seconds):>12}{duration(at_s):>12}"
            f"{asked.tasks_per_s:>9.2f}{asked.scheduler_share:>11.2%}"
            f"{asked.read_mb_per_s:>11,.0f}{asked.write_mb_per_s:>12,.0f}"
        )
    return lines


def size(num_bytes: float) -> str:
    """Bytes for people, decimal: `59 MB`, `1.7 GB`, `2.83 TB`."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:.3g} {unit}"
    return f"{num_bytes:.0f} B"
