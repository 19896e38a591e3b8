"""Events: one line each, appended; a line that a kill cut short harms no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from shards import events
from shards.layout import Layout


@pytest.fixture
def run(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


def test_a_run_without_events_took_no_time(run: Layout) -> None:
    assert (events.read_lines(run.events), events.total_seconds(run)) == ([], 0)


def test_events_are_read_in_order(run: Layout) -> None:
    events.append(run, verb="shard", seconds=1.5)
    events.append(run, note="é\nnext")
    events.append(run, verb="tokenize", seconds=2.0)
    read = events.read_lines(run.events)
    assert [event.get("verb") for event in read] == ["shard", None, "tokenize"]
    assert read[1]["note"] == "é\nnext"
    assert all(event["peak_mib"] > 1 for event in read)
    assert events.total_seconds(run) == 3.5


def test_a_timed_verb_leaves_its_time_if_it_ended(run: Layout) -> None:
    with events.timed(run, "shard"):
        assert not run.events.exists()
    with pytest.raises(ValueError, match="failed"), events.timed(run, "codebook"):
        raise ValueError("failed")
    (event,) = events.read_lines(run.events)
    assert event["verb"] == "shard"
    assert event["seconds"] > 0


def test_a_line_cut_short_is_left_out(run: Layout) -> None:
    events.append(run, verb="shard", seconds=1.0)
    with run.events.open("a") as file:
        file.write('{"verb": "codeb')
    assert [event["verb"] for event in events.read_lines(run.events)] == ["shard"]


def test_a_line_cut_short_does_not_swallow_the_next(run: Layout) -> None:
    run.events.write_text('{"verb": "codeb')
    events.append(run, verb="tokenize", seconds=1.0)
    assert [event["verb"] for event in events.read_lines(run.events)] == ["tokenize"]
