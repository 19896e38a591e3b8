"""Progress without a terminal: a line now and then, and one at the end."""

from __future__ import annotations

import pytest

from configs import console
from configs.console import Progress


def test_one_line_at_the_end_of_short_work(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("shard", 2, "clips") as progress:
        progress.advance(10)
        progress.advance(20, "1 quarantined")
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("shard: 2/2, ")
    assert "clips/s" in line
    assert line.endswith(", 1 quarantined")


def test_lines_while_long_work_goes_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "FIRST_LINE_S", 0.0)
    with Progress("shard", 2, "clips") as progress:
        progress.advance(1)
        progress.advance(1)
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("shard: 1/2, ")
    assert "s left" in first
    assert last.startswith("shard: 2/2, ")


def test_nothing_is_claimed_of_work_that_failed(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with Progress("shard", 2, "clips") as progress:
            progress.advance(1)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert capsys.readouterr().out == ""
