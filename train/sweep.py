"""`train sweep`: a model trained and scored for every point of a grid, by the public commands.

They run one after another as subprocesses. Nothing is kept beside what they make, but for how long
each took: what is committed answers at once, so that a sweep that was stopped or killed goes on
where it was when it is typed again. A point that fails does not keep the others.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from configs.cli import QUARANTINE_EXIT_CODE
from configs.console import answer, counted, say
from configs.errors import Preempted
from configs.processes import end_with
from shards.events import append, read_lines, total_seconds
from shards.layout import Layout
from shards.lock import hold
from train.grid import Point, points_of

COLUMNS = {"map": "mAP", "prior_map": "prior", "accuracy": "accuracy"}
FINE = (0, QUARANTINE_EXIT_CODE)  # after which the next command has what it needs


@dataclass(frozen=True)
class Step:
    """One command, and the points that cannot go on where it fails."""

    title: str
    words: tuple[str, ...]  # after `python -m`
    points: tuple[Point, ...]

    @property
    def verb(self) -> str:
        return self.words[1]


@dataclass
class Outcome:
    """What has come of the points so far, by their names."""

    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)  # in which step, with which code
    code: int = 0  # of the sweep

    def stops(self, step: Step) -> bool:
        """Whether none of a step's points can go on."""
        return all(point.name in self.failed for point in step.points)

    def fail(self, step: Step, code: int) -> None:
        reason = f"{step.verb} ended with {code}"
        self.failed |= {point.name: reason for point in step.points}
        self.code = 1
        say(f"sweep: {step.title}: ended with {code}; what does not need it goes on")


def run(path: Path, words: Sequence[str], is_dry: bool) -> int:
    """Go through the grid; ends with a table, and with one JSON object as the last line."""
    points = points_of(path, words)
    steps = plan(path, points)
    if is_dry:
        for number, step in enumerate(steps, 1):
            say(f"# {number}/{len(steps)}: {step.title}\npython -m {shlex.join(step.words)}")
        return 0
    layout = Layout(points[0].config.run)
    with hold(layout.root / "sweep.lock"):
        outcome = _go_through(steps, layout)
        compared = _compare(layout) if outcome.scores else 0
        _report(points, outcome, layout)
    return outcome.code or compared


def plan(path: Path, points: Sequence[Point]) -> list[Step]:
    """Shards first; then every point's codebook, where no point before had the same, its model and
    its scores."""
    steps = [_step("pipeline shard", path, points)]
    seen = set()
    for point in points:
        if point.codebook not in seen:
            same = [other for other in points if other.codebook == point.codebook]
            steps.append(_step("pipeline all", path, same, f"codebook {point.codebook}"))
        seen.add(point.codebook)
        steps += [_step(verb, path, [point], str(point)) for verb in ("train fit", "train eval")]
    return steps


def _step(command: str, path: Path, points: Sequence[Point], of: str = "") -> Step:
    package, verb = command.split()
    title = f"{of}: {verb}" if of else verb
    return Step(title, (package, verb, str(path), *points[0].overrides), tuple(points))


def _go_through(steps: Sequence[Step], layout: Layout) -> Outcome:
    outcome = Outcome()
    for number, step in enumerate(steps, 1):
        if outcome.stops(step):
            continue
        say(f"sweep {number}/{len(steps)}: {step.title}")
        code, said = _timed_command(step, layout)
        outcome.code = outcome.code or code * (code in FINE)
        if code not in FINE:
            outcome.fail(step, code)
        elif step.verb == "eval":
            outcome.scores[step.points[0].name] = _scores(step.points[0], said)
    return outcome


def _timed_command(step: Step, layout: Layout) -> tuple[int, str]:
    """Its exit code, and what `eval` printed; raises Preempted where the command, or the sweep, was
    told to stop."""
    began_s = time.monotonic()
    code, said, is_told = command(step.words, is_kept=step.verb == "eval")
    if step.verb in ("fit", "eval"):
        took_s = round(time.monotonic() - began_s, 3)
        append(layout, sweep=step.points[0].name, step=step.verb, exit_code=code, took_s=took_s)
    if is_told or code == Preempted.exit_code:
        raise Preempted(f"the sweep, in {step.title}; the same command goes on from there")
    return code, said


def command(words: Sequence[str], *, is_kept: bool) -> tuple[int, str, bool]:
    """Run a public command to its end. Returns its exit code, its output if that `is_kept`, and
    whether a signal came meanwhile. It is passed on: the command is in a process group of its own,
    so that a terminal's Ctrl-C does not reach it twice; and it never outlives the sweep, or it
    would hold the locks that the next one needs."""
    with TemporaryFile("w+", encoding="utf-8") as output:
        process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", *words],
            stdin=subprocess.DEVNULL,
            stdout=output if is_kept else None,
            process_group=0,
            preexec_fn=partial(end_with, os.getpid()),
        )
        code, is_told = _wait(process)
        output.seek(0)
        said = output.read().strip()
    if said:
        say(said)
    return code, said, is_told


def _wait(process: subprocess.Popen[bytes]) -> tuple[int, bool]:
    is_told = False
    while True:
        try:
            return process.wait(), is_told
        except KeyboardInterrupt:  # as cli makes of every signal
            is_told = True
            process.terminate()


def _scores(point: Point, said: str) -> dict[str, Any]:
    """What the last line of `eval` says of a point's model."""
    line: dict[str, Any] = json.loads(said.splitlines()[-1])
    own = {key.removeprefix(f"{point.model}_"): value for key, value in line.items()}
    return {key: value for key, value in own.items() if key != "seconds"}  # of the whole run


def _compare(layout: Layout) -> int:
    """The page of all models of the run."""
    return command(["train", "compare", str(layout.root)], is_kept=False)[0]


# --- the end ------------------------------------------------------------------------------------


def _report(points: Sequence[Point], outcome: Outcome, layout: Layout) -> None:
    rows = [
        {
            "name": point.name,
            "settings": dict(point.settings),
            **outcome.scores.get(point.name, {}),
            "seconds": _seconds(layout, point),
        }
        for point in points
    ]
    _say_table(points, rows)
    if outcome.failed:
        say(f"{counted(len(outcome.failed), 'point')} of {len(points)} failed:")
    for point in points:
        if point.name in outcome.failed:
            say(f"  {point}: {outcome.failed[point.name]}")
    seconds = round(total_seconds(layout), 1)
    answer({"points": rows, "failed": outcome.failed, "seconds": seconds})


def _say_table(points: Sequence[Point], rows: Sequence[dict[str, Any]]) -> None:
    """A line a point: its scores, means over folds, and what it took."""
    columns = [name for name in COLUMNS if any(name in row for row in rows)]
    width = max(len(str(point)) for point in points) + 2
    say(
        "".join(["point".ljust(width), *(f"{COLUMNS[n]:>10}" for n in columns), f"{'seconds':>10}"])
    )
    for point, row in zip(points, rows, strict=True):
        cells = [f"{row[name]:>9.2f}%" if name in row else f"{'':>10}" for name in columns]
        say("".join([str(point).ljust(width), *cells, f"{row['seconds']:>10.1f}"]))


def _seconds(layout: Layout, point: Point) -> float:
    """Wall seconds of a point's own commands until they had ended well; what they take to find that
    all is done is not counted."""
    total, done = 0.0, set[str]()
    for event in read_lines(layout.events):
        if event.get("sweep") == point.name and event["step"] not in done:
            total += event["took_s"]
            if event["exit_code"] == 0:
                done.add(event["step"])
    return round(total, 1)
