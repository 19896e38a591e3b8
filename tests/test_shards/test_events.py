"""Events: one line each, appended; a line that a kill cut short harms no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.errors import ConfigError
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
    assert [event["at"] for event in read] == sorted(event["at"] for event in read)
    assert events.total_seconds(run) == 3.5


def test_a_verb_leaves_its_time_and_how_it_ended(run: Layout) -> None:
    with events.timed(run, "shard"):
        pass
    with pytest.raises(KeyboardInterrupt), events.timed(run, "codebook"):
        raise KeyboardInterrupt
    found = [(event["verb"], event["done"]) for event in events.read_lines(run.events)]
    assert found == [("shard", True), ("codebook", False)]
    assert all(event["seconds"] > 0 for event in events.read_lines(run.events))
    assert all(event["peak_mib"] > 1 for event in events.read_lines(run.events))


def test_a_verb_that_fails_leaves_its_error(run: Layout) -> None:
    for error in (ConfigError("a.yaml", ["one", "two"]), KeyboardInterrupt(), OSError("torn")):
        with pytest.raises(type(error)), events.timed(run, "shard"):
            raise error
    found = [(event["exit_code"], event["error"]) for event in events.read_lines(run.events)]
    assert found == [(2, "a.yaml: 2 faults; one; two"), (75, ""), (1, "torn")]


def test_the_first_error_is_shown_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), events.timed(Layout(tmp_path / "nowhere"), "fit"):
        raise ZeroDivisionError


def test_a_line_cut_short_is_left_out(run: Layout) -> None:
    events.append(run, verb="shard", seconds=1.0)
    with run.events.open("a") as file:
        file.write('{"verb": "codeb')
    assert [event["verb"] for event in events.read_lines(run.events)] == ["shard"]


def test_a_line_cut_short_does_not_swallow_the_next(run: Layout) -> None:
    run.events.write_text('{"verb": "codeb')
    events.append(run, verb="tokenize", seconds=1.0)
    assert [event["verb"] for event in events.read_lines(run.events)] == ["tokenize"]


def test_a_tail_gives_each_whole_line_once(run: Layout) -> None:
    tail = events.Tail(run.events)
    assert tail.new() == []
    events.append(run, note="é")
    with run.events.open("a") as file:
        file.write('{"note": ')
    assert [event["note"] for event in tail.new()] == ["é"]
    with run.events.open("a") as file:
        file.write('"b"}\n[1]\nno JSON\n{"note": "c"}\n')
    assert [event["note"] for event in tail.new()] == ["b", "c"]
    assert tail.new() == []


def test_a_tail_of_a_file_that_was_made_anew_begins_again(run: Layout) -> None:
    tail = events.Tail(run.events)
    events.append(run, note="of a longer life")
    tail.new()
    run.events.write_text('{"note": "new"}\n')
    assert [event["note"] for event in tail.new()] == ["new"]
    run.events.unlink()
    assert tail.new() == []
