"""Memory and time as the set grows."""

from __future__ import annotations

import shutil
import statistics
import time
from pathlib import Path

import yaml

from tests.processes import family
from tests.torture import trials
from tests.torture.job import Report, committed, fresh, small_job


def scale(directory: Path, *, clips: int = 96, times: int = 10, rounds: int = 5) -> Report:
    """Peak memory of an inline job with its decoder, and CPU time a clip, at 1 and at `times` times
    the clips."""
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
    the process with its decoder, in MiB."""
    run = Path(yaml.safe_load(config.read_text())["run"])
    shutil.rmtree(run, ignore_errors=True)
    process = fresh(config, [], "")
    first: tuple[int, float] | None = None
    cpu_s = peak_mib = 0.0
    while process.poll() is None:
        done = len(committed(run))
        pids = [member.pid for member in family(process.pid)]
        usage = [usage for pid in pids if (usage := trials.usage(pid)) is not None]
        cpu_s = max(cpu_s, sum(cpu for cpu, _ in usage))
        peak_mib = max(peak_mib, sum(peak for _, peak in usage))
        if done and first is None:
            first = done, cpu_s
        time.sleep(0.01)
    assert process.returncode == 0
    assert first is not None
    num_shards = len(committed(run))
    clips = num_clips * (num_shards - first[0]) / num_shards
    return 1000 * (cpu_s - first[1]) / clips, peak_mib
