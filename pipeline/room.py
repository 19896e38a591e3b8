"""A full disk: wait until there is room for what is in flight, or give up."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from configs.console import say
from shards.commit import StageLog

LEAST_BYTES = 64 << 20
SAMPLE = 16  # committed shards, to know how large one is
POLL_S = 5.0
BURST_S = 10.0  # in which what was in flight meets the same full disk
TIMES_THE_NEED = 2  # a shard is written in parts before it is published


@dataclass
class Room:
    """Waits for room on the disk of a run.

    Args:
        log: of the stage that writes.
        limit_s: how long all waiting of a stage may take; then it fails.
    """

    log: StageLog
    limit_s: float
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        self._left_s = self.limit_s
        self._burst_ends_s = 0.0

    def make(self, error: OSError, num_in_flight: int) -> bool:
        """Block until there is room for so many shards that are written at once; False when the
        time is up. `error` says which disk is full."""
        where, needed = self._disk_of(error), self._needed_bytes(num_in_flight)
        if self._has_room(where, needed) and time.monotonic() < self._burst_ends_s:
            return True
        self._tell(where, needed)
        while self._waits_a_step():
            if self._has_room(where, needed):
                say(f"{where}: going on")
                self._burst_ends_s = time.monotonic() + BURST_S
                return True
        return False

    def _has_room(self, where: Path, needed: int) -> bool:
        return shutil.disk_usage(where).free >= needed

    def _waits_a_step(self) -> bool:
        """False when the time is up. Where a quota is full, the disk's room says nothing: some time
        always passes."""
        step_s = min(POLL_S, self._left_s)
        self._left_s -= step_s
        if step_s > 0:
            self.sleep(step_s)
        return step_s > 0

    def _disk_of(self, error: OSError) -> Path:
        path = Path(str(error.filename)) if error.filename else self.log.layout.root
        return next((p for p in (path, *path.parents) if p.is_dir()), self.log.layout.root)

    def _needed_bytes(self, num_in_flight: int) -> int:
        """By the mean of shards that are committed."""
        some = sorted(self.log.committed())[:SAMPLE]
        records = [record for record in map(self.log.record, some) if record is not None]
        sizes = [sum(file.bytes for file in record.files) for record in records]
        mean = sum(sizes) // len(sizes) if sizes else 0
        return max(LEAST_BYTES, TIMES_THE_NEED * num_in_flight * mean)

    def _tell(self, where: Path, needed: int) -> None:
        free = shutil.disk_usage(where).free
        say(
            f"{where}: the disk is full (or a quota is): {free / 1e6:.0f} MB free, "
            f"{needed / 1e6:.0f} MB needed to go on; waiting {self._left_s:.0f} s for room "
            "(cluster.wait_for_disk_s). Nothing is lost; Ctrl-C, and the same command later"
        )
