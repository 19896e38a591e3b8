"""The log of a training: what a kill cut short, and what a resumed training takes back."""

from __future__ import annotations

from pathlib import Path

import pytest

from train.journal import Journal


def test_a_line_cut_short_is_left_out(tmp_path: Path) -> None:
    log = Journal(tmp_path / "metrics.jsonl", tmp_path / "partial")
    assert log.read() == []
    log.path.write_text('{"step": 1}\n[2]\n{"other": 3}\n{"step": 10}\n{"step": 20, "lo')
    assert log.read() == [{"step": 1}, {"step": 10}]


def test_later_steps_are_taken_back(tmp_path: Path) -> None:
    log = Journal(tmp_path / "model" / "metrics.jsonl", tmp_path / "partial")
    for step in (1, 10, 20):
        log.append({"step": step, "loss": 0.5})
    log.keep_until(10, ())
    assert [record["step"] for record in log.read()] == [1, 10]
    log.keep_until(0, ())
    assert log.path.read_text() == ""


def test_a_validation_that_no_checkpoint_knows_is_taken_back(tmp_path: Path) -> None:
    log = Journal(tmp_path / "metrics.jsonl", tmp_path / "partial")
    for step in (10, 20):
        log.append({"step": step, "loss": 0.5})
        log.append({"step": step, "valid_map": 0.5})
    log.keep_until(20, {10: 0.5})
    assert [(r["step"], "valid_map" in r) for r in log.read()] == [
        (10, False),
        (10, True),
        (20, False),
    ]


def test_what_lasts_is_on_disk_when_it_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[Path, str]] = []
    path = tmp_path / "model" / "metrics.jsonl"

    def note(place: Path) -> None:
        synced.append((place, path.read_text()))

    monkeypatch.setattr("train.journal.sync_file", note)
    monkeypatch.setattr("train.journal.sync_directory", note)
    journal = Journal(path, tmp_path)
    journal.append({"step": 1, "loss": 2.0})
    assert synced == []
    journal.append({"step": 1, "masked": ["clip7"]}, lasts=True)
    assert [place for place, _ in synced] == [path, path.parent]
    assert all('"clip7"' in text for _, text in synced)
