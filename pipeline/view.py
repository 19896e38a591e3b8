"""What is seen of a run, as lines for people."""

from __future__ import annotations

import time
from collections import Counter

from pipeline.look import Event, Sight, StageSight, State
from pipeline.pace import duration
from pipeline.trainings import TrainingSight

STATES: dict[State, str] = {
    "nobody": "`python -m pipeline shard` begins",
    "at work": "pid {pid} on {host} is at work since {since}",
    "done": "pid {pid} on {host} has done its work",
    "failed": "pid {pid} on {host} ended before its work was done: run the same command again",
    "gone": "pid {pid} on {host} is gone: run the same command again",
    "not seen": "pid {pid} on {host} began at {since}; whether it lives cannot be seen from here",
}
MANY_S = 86_400  # a clock time older than this needs its date
SHOWN_CHARS = 160  # of an event


def headline(sight: Sight) -> str:
    """Which run, how large, and who holds it."""
    if sight.num_clips is None:
        what = "no plan yet" if sight.holder else "nothing made yet"
    else:
        what = f"{sight.num_clips:,} clips in {sight.num_shards:,} shards"
    return f"{sight.root}: {what}; {holder_line(sight)}"


def holder_line(sight: Sight) -> str:
    who = sight.holder
    if who is None:
        return STATES["nobody"]
    if sight.fault:
        return f"pid {who.pid} on {who.host} failed: {sight.fault}"
    return STATES[sight.state].format(pid=who.pid, host=who.host, since=clock(who.since_s))


def stage_line(stage: StageSight) -> str:
    """`shard: 12 of 42 committed, 3.1 shards/min, 53 clips/s, 10 min left`."""
    parts = [f"{stage.title}: {stage.done} of {stage.total} committed"]
    if stage.is_finished:
        parts += ["sealed"] if stage.is_sealable else []
    elif stage.done >= stage.total:
        parts.append("not sealed yet")
    else:
        parts += pace_words(stage)
    return ", ".join(parts)


def training_line(training: TrainingSight) -> str:
    """`fit bert: epoch 3.2 of 20, step 120, pid 17 on lab3 is at work since 12:01:33`."""
    title = f"fit {training.name}"
    if training.is_committed:
        return f"{title}: committed"
    of = f" of {training.num_epochs}" if training.num_epochs else ""
    came = f"epoch {training.epoch:.3g}{of}, step {training.step:,}" if training.step else "begins"
    return f"{title}: {came}, {_trainer_words(training)}"


def _trainer_words(training: TrainingSight) -> str:
    who = training.holder
    if who is None or training.is_at_work is False:
        return "stopped: `python -m train fit` goes on"
    state: State = "at work" if training.is_at_work else "not seen"
    return STATES[state].format(pid=who.pid, host=who.host, since=clock(who.since_s))


def pace_words(stage: StageSight) -> list[str]:
    """Shards a minute, clips a second, time left; nothing where nobody can say."""
    if stage.pace is None or stage.left_s is None:
        return []
    return [
        f"{_rate(60 * stage.pace.shards_per_s)} shards/min",
        f"{_rate(stage.pace.clips_per_s)} clips/s",
        f"{duration(stage.left_s)} left",
    ]


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def quarantine_line(sight: Sight) -> str:
    """How many of the clips seen so far were refused, and for what; empty where none was."""
    refused = sum(sight.reasons.values())
    if not refused:
        return ""
    listed = ", ".join(f"{n:,} {reason}" for reason, n in Counter(sight.reasons).most_common())
    share = refused / max(1, sight.num_seen)
    return f"quarantine: {refused:,} of {sight.num_seen:,} clips ({share:.2%}): {listed}"


def event_line(event: Event) -> str:
    """`12:01:33 killed shard-000012, tcp://10.0.0.7:4711`."""
    if "verb" in event:
        what = f"{event['verb']} ended before it was done, after {event.get('seconds', 0):.0f} s"
        what += f": {event['error']}" if event.get("error") else ""
    else:
        words = [event.get(key) for key in ("task", "name", "worker", "reason")]
        pieces = event.get("pieces")
        words += [" ".join(map(str, pieces))] if isinstance(pieces, list) else []
        delay_s = event.get("delay_s")
        words += [f"attempt {event.get('attempt')} in {delay_s:.0f} s"] if delay_s else []
        what = f"{event.get('event')} " + ", ".join(str(word) for word in words if word)
    line = f"{clock(event.get('at', 0.0))} {what}"
    return line if len(line) <= SHOWN_CHARS else f"{line[: SHOWN_CHARS - 3]}..."


def clock(at_s: float) -> str:
    """Local time of a moment, with its date where that is not within a day."""
    form = "%H:%M:%S" if abs(time.time() - at_s) < MANY_S else "%Y-%m-%d %H:%M"
    return time.strftime(form, time.localtime(at_s))
