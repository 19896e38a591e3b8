"""What a person sees while a command works: a rich bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

FIRST_LINE_S = 5.0  # without a terminal; each further line waits half as long again

is_quiet = False  # set in processes beside one that says it all


def say(text: str) -> None:
    """One line for a person, on standard output, visible at once."""
    if not is_quiet:
        print(text, flush=True)  # noqa: T201 - this is where the project prints


def warn(text: str) -> None:
    """The same on standard error, for what does not end the command."""
    if not is_quiet:
        print(text, file=sys.stderr, flush=True)  # noqa: T201


def counted(number: int, what: str) -> str:
    """`1 worker`, `2 workers`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def answer(tree: Mapping[str, Any]) -> None:
    """One line of JSON for a program: the last of a verb that measures."""
    say(json.dumps(tree))


class Progress:
    """Counts finished pieces of work and shows rate, time left and a note.

    Args:
        what: the stage, as `shard` or `tokenize fold1`.
        total: pieces of work, those done before included.
        unit: what `amount` counts, as `clips`; the rate is given in it.
        done: pieces that were finished before.
    """

    def __init__(self, what: str, total: int, unit: str, done: int = 0) -> None:
        self.what, self.total, self.unit = what, total, unit
        self._before, self._done, self._amount, self._note = done, done, 0, ""
        self._started_s = time.monotonic()
        self._next_line_s = self._started_s + FIRST_LINE_S
        self._bar = _rich_bar() if sys.stdout.isatty() and not is_quiet else None

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(
                self.what, total=self.total, completed=self._before, note=""
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif kind is None and self._done > self._before:
            self._show_plain()

    def advance(self, amount: int, note: str = "") -> None:
        """One more piece is done, worth `amount` units; `note` replaces the last note."""
        self._done += 1
        self._amount += amount
        self._note = note
        if self._bar is not None:
            self._bar.update(self._task, advance=1, note=f"{self._rate()} {note}".strip())
        elif time.monotonic() > self._next_line_s and self._done < self.total:
            self._show_plain()

    def _rate(self) -> str:
        elapsed_s = max(time.monotonic() - self._started_s, 1e-9)
        return f"{self._amount / elapsed_s:,.0f} {self.unit}/s"

    def _show_plain(self) -> None:
        elapsed_s = time.monotonic() - self._started_s
        self._next_line_s = self._started_s + 1.5 * elapsed_s + FIRST_LINE_S
        left_s = elapsed_s / (self._done - self._before) * (self.total - self._done)
        when = f"{left_s:.0f} s left" if self._done < self.total else f"{elapsed_s:.1f} s"
        parts = [f"{self.what}: {self._done}/{self.total}", self._rate(), when, self._note]
        say(", ".join(part for part in parts if part))


def _rich_bar() -> RichProgress:
    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(),
    )
