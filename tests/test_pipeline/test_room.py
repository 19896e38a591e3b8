"""Waiting for room on a full disk: how much, how long, and what is said."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import NamedTuple

import pytest

from pipeline import room
from pipeline.room import LEAST_BYTES, Room
from shards.commit import CommitRecord, FileRecord, StageLog
from shards.layout import Layout

FULL = OSError(errno.ENOSPC, "No space left on device", None)


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def log(tmp_path: Path) -> StageLog:
    return StageLog(Layout(tmp_path), "shard", "default")


def disk(monkeypatch: pytest.MonkeyPatch, *free: int) -> None:
    """A disk with so much room at each look; the last figure stays."""
    left = list(free)

    def usage(_: Path) -> Usage:
        return Usage(0, 0, left.pop(0) if len(left) > 1 else left[0])

    monkeypatch.setattr(room.shutil, "disk_usage", usage)


def test_it_waits_until_there_is_room(
    log: StageLog, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slept: list[float] = []
    disk(monkeypatch, 0, 0, 10, LEAST_BYTES)
    assert Room(log, 60, slept.append).make(FULL, 4)
    assert sum(slept) <= 15
    said = capsys.readouterr().out
    assert "0 MB free, 67 MB needed to go on; waiting 60 s for room" in said
    assert "going on" in said


def test_the_time_is_for_all_waiting_together(
    log: StageLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    disk(monkeypatch, 0)
    waiting = Room(log, 12, slept.append)
    assert not waiting.make(FULL, 4)
    assert slept == [5, 5, 2]
    assert not waiting.make(FULL, 4)
    assert sum(slept) == 12


def test_with_room_it_still_waits_a_little(log: StageLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a quota is full, which the disk's room does not show."""
    slept: list[float] = []
    disk(monkeypatch, 1 << 40)
    assert Room(log, 60, slept.append).make(FULL, 4)
    assert slept == [5]


def test_what_was_in_flight_together_waits_once(
    log: StageLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    disk(monkeypatch, 1 << 40)
    waiting = Room(log, 60, slept.append)
    assert all(waiting.make(FULL, 256) for _ in range(256))
    assert slept == [5]


def test_what_is_needed_follows_what_was_made(
    log: StageLog, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for shard in range(3):
        files = (FileRecord(f"audio/{shard}", 100_000_000, "0"),)
        log.commit(CommitRecord("shard", "default", shard, "f", {"clips": 2}, "", files))
    disk(monkeypatch, 0)
    assert not Room(log, 5, lambda _: None).make(FULL, 4)
    assert "800 MB needed" in capsys.readouterr().out


def test_it_looks_at_the_disk_that_is_full(
    log: StageLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    error = OSError(errno.ENOSPC, "No space left on device", str(other / "gone/file"))
    Room(log, 5, lambda _: None).make(error, 1)
    assert f"{other}: the disk is full" in capsys.readouterr().out
