"""What a watch says without a terminal: changes, not more often than needed, and signs of life."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.displays import LINE_S, SIGN_S, Lines
from pipeline.look import Event, Sight, StageSight
from pipeline.pace import Pace
from pipeline.trainings import TrainingSight
from pipeline.view import SHOWN_CHARS, event_line, quarantine_line, stage_line
from shards.lock import Holder

SHARD = StageSight("shard", "default", 42, 12, True, False, Pace(0.05, 51.2))
SIGHT = Sight(
    root=Path("runs/x"),
    num_clips=43_008,
    num_shards=42,
    stages=(SHARD,),
    trainings=(),
    num_seen=12_288,
    reasons={},
    holder=Holder(7, "node1", 0.0),
    state="at work",
    fault="",
    events=(),
)


class Log:
    """Lines, told by a clock that the test sets."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.told: list[str] = []
        self._lines = Lines(self.told.append, lambda: self.now_s)

    def show(self, sight: Sight | None, after_s: float, trouble: str = "") -> list[str]:
        """What is told when this is seen, so long after the last time."""
        self.now_s += after_s
        before = len(self.told)
        self._lines.show(sight, trouble)
        return self.told[before:]


def with_done(done: int, **over: object) -> Sight:
    return replace(SIGHT, stages=(replace(SHARD, done=done, **over),))


def test_changes_are_told_and_nothing_else() -> None:
    log = Log()
    first = log.show(SIGHT, 0)
    assert first[0].startswith("runs/x: 43,008 clips in 42 shards; pid 7 on node1 is at work")
    assert first[1] == "shard: 12 of 42 committed, 3 shards/min, 51.2 clips/s, 10 min left"
    assert log.show(SIGHT, 2) == []
    assert log.show(with_done(13), 1) == []  # too soon
    (line,) = log.show(with_done(14), LINE_S)
    assert line.startswith("shard: 14 of 42")
    assert log.show(replace(with_done(14), num_seen=1), LINE_S) == []


def test_a_training_is_told_epoch_by_epoch() -> None:
    training = TrainingSight("m", False, 10, 1.4, 20, Holder(7, "node1", 0.0))
    log = Log()
    *_, line = log.show(replace(SIGHT, trainings=(training,)), 0)
    assert line.startswith("fit m: epoch 1.4 of 20, step 10, pid 7 on node1 began at ")
    assert log.show(replace(SIGHT, trainings=(replace(training, step=11),)), LINE_S) == []
    (line,) = log.show(replace(SIGHT, trainings=(replace(training, epoch=2.1),)), LINE_S)
    assert line.startswith("fit m: epoch 2.1 of 20")


def test_there_is_a_line_each_minute_at_least() -> None:
    log = Log()
    log.show(SIGHT, 0)
    assert log.show(SIGHT, SIGN_S - 1) == []
    again = log.show(SIGHT, 1)
    assert len(again) == 2
    assert again[1].startswith("shard: 12 of 42")
    assert log.show(SIGHT, SIGN_S - 1) == []


def test_events_and_the_end_do_not_wait() -> None:
    log = Log()
    log.show(SIGHT, 0)
    event = {"at": 0.0, "event": "killed", "task": "shard-000012", "worker": "tcp://node2:40001"}
    (line,) = log.show(replace(SIGHT, events=(event,)), 0.1)
    assert line.endswith("killed shard-000012, tcp://node2:40001")
    done = log.show(with_done(42, is_finished=True, pace=None), 0.1)
    assert done == ["shard: 42 of 42 committed, sealed"]


def test_trouble_is_told_once_and_again_when_it_lasts() -> None:
    log = Log()
    log.show(SIGHT, 0)
    assert log.show(None, LINE_S, "no such file") == ["cannot be read now: no such file"]
    assert log.show(None, LINE_S, "no such file") == []
    assert log.show(None, SIGN_S, "no such file") == ["cannot be read now: no such file"]


def test_the_quarantine_is_a_share_of_what_was_seen() -> None:
    sight = replace(SIGHT, reasons={"silent": 3, "missing": 1_200})
    assert quarantine_line(sight) == (
        "quarantine: 1,203 of 12,288 clips (9.79%): 1,200 missing, 3 silent"
    )


def test_a_stage_that_nobody_works_on_has_no_rate() -> None:
    assert stage_line(replace(SHARD, pace=None)) == "shard: 12 of 42 committed"
    assert stage_line(replace(SHARD, done=42)) == "shard: 42 of 42 committed, not sealed yet"


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (
            {"event": "retry", "task": "shard-000001", "reason": "x", "attempt": 2, "delay_s": 4.0},
            "retry shard-000001, x, attempt 2 in 4 s",
        ),
        (
            {"event": "refused", "worker": "tls://n:1", "name": "w on n", "reason": "numpy 1"},
            "refused w on n, tls://n:1, numpy 1",
        ),
        ({"event": "isolated", "task": "t", "pieces": ["a", "b"]}, "isolated t, a b"),
        ({"verb": "shard", "done": False, "seconds": 9.7}, "shard ended before it was done"),
        (
            {"verb": "shard", "done": False, "seconds": 9.7, "error": "no worker came"},
            "after 10 s: no worker came",
        ),
        ({"event": "full disk", "task": None}, "full disk"),
    ],
)
def test_events_in_words(event: Event, said: str) -> None:
    assert said in event_line({"at": 0.0, **event})


def test_a_long_event_is_cut() -> None:
    assert len(event_line({"at": 0.0, "event": "failed", "reason": "x" * 999})) == SHOWN_CHARS
