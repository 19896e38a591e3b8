"""Looking at a run: each record read once, half-written files survived, holders told apart."""

from __future__ import annotations

import os
import socket
import time

import pytest

from configs.schema import Config
from pipeline import look
from pipeline.look import Lookout, StageSight
from pipeline.view import holder_line
from shards.commit import CommitRecord, StageLog
from shards.events import append
from shards.layout import Layout
from shards.lock import holder
from tests.commands import succeed
from tests.conftest import MakeConfig
from tests.processes import dead_pid


@pytest.fixture
def config(own_run: Config) -> Config:
    """Of a made run, whose driver has ended."""
    return own_run


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Records that are read, in order."""
    seen: list[str] = []
    real = StageLog.record

    def record(log: StageLog, shard: int) -> CommitRecord | None:
        seen.append(f"{log.stage} {shard}")
        return real(log, shard)

    monkeypatch.setattr(StageLog, "record", record)
    return seen


def stage_of(lookout: Lookout, stage: str = "shard") -> StageSight:
    return next(seen for seen in lookout.look().stages if seen.stage == stage)


def holds(config: Config, pid: int, host: str, ago_s: float = 0.0) -> None:
    """The lock file, as a driver writes it that has just begun."""
    lock = Layout(config.run).lock
    lock.write_text(f"pid {pid} on {host}")
    os.utime(lock, (time.time() - ago_s,) * 2)


def test_a_made_run_is_finished(config: Config) -> None:
    sight = Lookout(config).look()
    assert (sight.is_finished, sight.state) == (True, "done")
    assert (sight.num_clips, sight.num_shards, sight.num_seen) == (64, 8, 64)
    assert [(seen.title, seen.done, seen.total) for seen in sight.stages] == [
        ("shard", 8, 8),
        ("codebook", 1, 1),
        ("tokenize", 8, 8),
    ]
    assert all(seen.is_finished and seen.pace is None for seen in sight.stages)


def test_a_record_is_read_once(config: Config, reads: list[str]) -> None:
    log = StageLog(Layout(config.run), "shard", "default")
    data = log.path(5).read_bytes()
    log.path(5).unlink()
    for seal in log.layout.seals.glob("shard-*"):  # to find one reads the records, too
        seal.unlink()
    lookout = Lookout(config)
    assert stage_of(lookout).done == 7
    del reads[:]
    log.path(5).write_bytes(data)
    assert stage_of(lookout).done == 8
    assert reads == ["shard 5"]
    log.path(3).unlink()
    assert stage_of(lookout).done == 7
    assert lookout.look().num_seen == 7 * 8
    assert reads == ["shard 5"]


def test_a_look_is_broken_off_at_the_next_record(config: Config, reads: list[str]) -> None:
    (seal,) = Layout(config.run).seals.glob("shard-*")
    seal.unlink()
    Lookout(config, lambda: len(reads) >= 3).look()
    assert reads == ["shard 0", "shard 1", "shard 2"]


def test_half_a_record_is_read_when_it_is_whole(config: Config) -> None:
    log = StageLog(Layout(config.run), "shard", "default")
    data = log.path(5).read_bytes()
    log.path(5).write_bytes(data[:100])
    lookout = Lookout(config)
    assert lookout.look().num_seen == 7 * 8
    log.path(5).write_bytes(data)
    assert lookout.look().num_seen == 8 * 8


def test_a_seal_counts_from_when_it_is_there(config: Config) -> None:
    (seal,) = Layout(config.run).seals.glob("tokenize-*")
    data = seal.read_bytes()
    seal.unlink()
    lookout = Lookout(config)
    assert not stage_of(lookout, "tokenize").is_finished
    assert not lookout.look().is_finished
    seal.write_bytes(data)
    assert lookout.look().is_finished


def test_a_seal_is_looked_for_once(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    lookout = Lookout(config)
    lookout.look()
    monkeypatch.setattr(look, "find_seal", None)
    assert lookout.look().is_finished


def test_a_stage_under_way_has_a_pace_while_somebody_works(config: Config) -> None:
    layout = Layout(config.run)
    log = StageLog(layout, "shard", "default")
    for shard in (6, 7):
        log.path(shard).unlink()
    for path in log.directory.glob("0*.json"):
        os.utime(path, (time.time() - 30,) * 2)
    os.utime(log.directory / "recipe.json", (time.time() - 3_600,) * 2)
    assert stage_of(Lookout(config)).pace is None  # the last driver has ended
    layout.events.unlink()
    holds(config, os.getpid(), socket.gethostname(), ago_s=60)
    seen = stage_of(Lookout(config))
    assert seen.pace is not None
    assert seen.pace.shards_per_s == pytest.approx(6 / 60, rel=0.1)
    assert seen.pace.clips_per_s == pytest.approx(48 / 60, rel=0.1)
    assert seen.left_s == pytest.approx(20, rel=0.1)


@pytest.mark.parametrize("state", ["at work", "gone", "not seen", "done", "failed", "nobody"])
def test_what_became_of_the_holder(make_config: MakeConfig, state: str) -> None:
    config = make_config()
    config.run.mkdir()
    host = "elsewhere" if state == "not seen" else socket.gethostname()
    if state != "nobody":
        holds(config, dead_pid() if state == "gone" else os.getpid(), host, ago_s=1)
    layout = Layout(config.run)
    before = {"verb": "shard", "seconds": 1.0, "holds_since": 7.25}
    append(layout, done=True, **before)  # of another holder, whatever its clock said
    if state in ("done", "failed"):
        held = holder(layout.lock)
        assert held is not None
        append(layout, done=state == "done", **before | {"holds_since": held.since_s})
    append(layout, verb="fit", done=False, seconds=1.0)  # holds no run
    assert Lookout(config).look().state == state


@pytest.mark.parametrize(("code", "fault"), [(75, ""), (2, "no disk"), (1, "no disk")])
def test_a_failure_says_whether_the_same_command_would_go_on(
    make_config: MakeConfig, code: int, fault: str
) -> None:
    config = make_config()
    config.run.mkdir()
    holds(config, os.getpid(), socket.gethostname(), ago_s=1)
    layout = Layout(config.run)
    held = holder(layout.lock)
    assert held is not None
    ending = {"done": False, "exit_code": code, "error": "no disk"}
    append(layout, verb="shard", seconds=1.0, holds_since=held.since_s, **ending)
    sight = Lookout(config).look()
    assert (sight.state, sight.fault) == ("failed", fault)
    assert ("run the same command again" in holder_line(sight)) == (code == 75)


def test_who_only_cleared_up_has_done_its_work(config: Config) -> None:
    assert succeed("shards", "gc", config.run)
    assert Lookout(config).look().state == "done"


def test_notable_events_are_told_once(config: Config) -> None:
    layout = Layout(config.run)
    append(layout, event="killed", task="shard-000001", worker="tcp://h:1")
    append(layout, event="start", task="shard-000002")
    lookout = Lookout(config)
    assert [event["task"] for event in lookout.look().events] == ["shard-000001"]
    with layout.events.open("a") as file:
        file.write('{"event": "refused", ')
    assert lookout.look().events == ()
    with layout.events.open("a") as file:
        file.write('"task": "shard-000003"}\n')
    assert [event["event"] for event in lookout.look().events] == ["refused"]
    assert lookout.look().events == ()


def test_a_run_that_does_not_exist_is_seen_as_nothing(make_config: MakeConfig) -> None:
    config = make_config()
    sight = Lookout(config).look()
    assert (sight.num_clips, sight.stages, sight.holder) == (None, (), None)
    assert not sight.is_finished
    assert not config.run.exists()
