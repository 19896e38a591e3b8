"""Where `status --watch` shows what it sees: a picture on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from configs.console import say
from pipeline.look import Sight
from pipeline.view import (
    event_line,
    headline,
    pace_words,
    quarantine_line,
    stage_line,
    training_line,
)

LINE_S, SIGN_S = 5.0, 60.0  # between lines at least, and at most
FEW_EVENTS, BAR_CHARS = 5, 30

Show = Callable[[Sight | None, str], None]  # what is seen, or else what is wrong


@contextmanager
def display() -> Iterator[Show]:
    console = Console()
    if not sys.stdout.isatty() or console.is_dumb_terminal:
        yield Lines().show
        return
    with Live(console=console, auto_refresh=False) as live:
        yield Screen(live).show


class Screen:
    """A picture, drawn anew at every look."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._sight: Sight | None = None
        self._events: deque[str] = deque(maxlen=FEW_EVENTS)

    def show(self, sight: Sight | None, trouble: str) -> None:
        self._sight = sight or self._sight
        self._events.extend(map(event_line, sight.events if sight else ()))
        picture = list(_picture(self._sight)) if self._sight else []
        lines = [*self._events, *([_trouble(trouble)] if trouble else [])]
        lines.append("Ctrl-C ends this view, not the job.")
        picture += [Text(line, style="dim") for line in lines]
        self._live.update(Group(*picture), refresh=True)


def _picture(sight: Sight) -> Iterator[RenderableType]:
    yield Text(_head(sight))
    table = Table.grid(padding=(0, 2))
    for stage in sight.stages:
        words = ", ".join(pace_words(stage))
        if stage.is_finished:
            words = "sealed" if stage.is_sealable else "done"
        bar = ProgressBar(total=stage.total, completed=stage.done, width=BAR_CHARS)
        table.add_row(stage.title, bar, f"{stage.done:,}/{stage.total:,}", words)
    yield table
    yield from (Text(training_line(training)) for training in sight.trainings)
    if sight.reasons:
        yield Text(quarantine_line(sight))


def _head(sight: Sight) -> str:
    is_awaited = not sight.is_finished and sight.state != "at work"
    return headline(sight) + (" (waiting)" if is_awaited else "")


def _trouble(trouble: str) -> str:
    return f"cannot be read now: {trouble}"


class Lines:
    """Lines for a log: what changed since it was said last, and a sign of life."""

    def __init__(
        self, tell: Callable[[str], None] = say, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._tell, self._clock_s = tell, clock_s
        self._said: dict[str, str] = {}  # the state of each part when it was said
        self._told_s = -SIGN_S

    def show(self, sight: Sight | None, trouble: str) -> None:
        for event in sight.events[-FEW_EVENTS:] if sight else ():
            self._tell(event_line(event))
        parts = _parts(sight) if sight else {"trouble": (trouble, _trouble(trouble))}
        fresh = [part for part, (state, _) in parts.items() if self._said.get(part) != state]
        quiet_s = self._clock_s() - self._told_s
        is_over = sight is not None and sight.is_finished
        if fresh and (quiet_s >= LINE_S or is_over):
            self._tell_parts(parts, fresh)
        elif quiet_s >= SIGN_S:
            self._tell_parts(parts, _under_way(sight) if sight else ["trouble"])

    def _tell_parts(self, parts: dict[str, tuple[str, str]], names: list[str]) -> None:
        self._told_s = self._clock_s()
        for name in names:
            self._said[name] = parts[name][0]
            self._tell(parts[name][1])


def _parts(sight: Sight) -> dict[str, tuple[str, str]]:
    """What can be said, by part: the state that makes it news, and the line. A rate is no news."""
    parts = {"head": (_head(sight), _head(sight))}
    for stage in sight.stages:
        parts[stage.title] = (f"{stage.done} {stage.is_finished}", stage_line(stage))
    for training in sight.trainings:
        state = f"{training.epoch:.0f} {training.is_committed} {training.is_at_work}"
        parts[f"fit {training.name}"] = (state, training_line(training))
    if sight.reasons:
        parts["quarantine"] = (str(sight.reasons), quarantine_line(sight))
    return parts


def _under_way(sight: Sight) -> list[str]:
    """What a sign of life is made of: who works, and on what."""
    begun = [stage.title for stage in sight.stages if stage.is_begun and not stage.is_finished]
    return ["head", *begun]
