"""Run the tasks of a stage that have no record yet, and say what became of them."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from distributed import Client

from cluster.events import EventName
from cluster.launch import OpenClient
from cluster.report import reported
from cluster.rules import Bisection, Rules
from cluster.submit import FULL_DISK, run_tasks
from configs.cluster import ClusterConfig
from configs.console import Progress, counted, say
from configs.errors import AudiolexError, IntegrityError, StageFailed, notes_of
from pipeline.room import Room
from pipeline.stamp import Sight, stamp
from shards.commit import RECIPE_NAME, CommitRecord, StageLog
from shards.events import append
from shards.layout import Layout

SHOWN_FAILURES, MANY_FAILURES = 5, 16
LASTING = FULL_DISK | {errno.EROFS}  # faults of a disk that the next shard would meet, too


class ShardJob(Protocol):
    """A task that makes one shard."""

    @property
    def title(self) -> str:
        """Stage and shard, as `shard 000012`: what people and Dask call it."""


class Counted(Protocol):
    """What a task gives back."""

    @property
    def counts(self) -> Mapping[str, int]:
        """`clips` and `quarantined`, as far as there are any."""


Task = TypeVar("Task", bound=ShardJob)


@dataclass(frozen=True)
class Stage(Generic[Task]):
    """What a stage does with a task, under which recipe.

    Args:
        log: its records.
        fingerprint: of the recipe that `log` is bound to.
        function: makes and commits the shard of a task; runs on workers.
        part: of the stage, where it has several; only the last one's tasks make records, and need
            the resources that the stage asks for.
        bisection: how to find a clip that kills workers, where that can be left out.
        sight: looks at what else than the run its tasks must see: what, and in which state.
    """

    log: StageLog
    fingerprint: str
    function: Callable[[Task], Counted]
    bisection: Bisection[Task] | None = None
    sight: Sight = dict
    part: str = ""

    @property
    def title(self) -> str:
        name = "" if self.log.name == "default" else self.log.name
        return " ".join(word for word in (self.log.stage, name, self.part) if word)


def run_shards(
    stage: Stage[Task], tasks: Sequence[Task], config: ClusterConfig, client: OpenClient
) -> list[CommitRecord]:
    """Run the tasks of shards 0, 1 ... that have no record yet; returns all records in order.

    Raises StageFailed when tasks failed; the other shards are committed by then.
    """
    log, title, fingerprint = stage.log, stage.title, stage.fingerprint
    done = log.committed()
    waiting = [task for shard, task in enumerate(tasks) if shard not in done]
    if not waiting:
        say(f"{title}: all {len(tasks)} shards are committed, nothing to do")
    elif done:
        say(f"{title}: {len(done)} of {len(tasks)} shards are committed, going on")
    else:
        say(f"{title}: {counted(len(tasks), 'shard')}")
    run_parts(stage, waiting, config, client)
    records = [record for record in map(log.record, range(len(tasks))) if record is not None]
    if {record.fingerprint for record in records} - {fingerprint}:
        raise IntegrityError(
            f"{log.directory}: some records were made with another recipe than the others; "
            f"`python -m shards verify {log.layout.root}` names them, another run=DIR begins anew"
        )
    if len(records) < len(tasks):
        raise StageFailed(f"{title}: {len(tasks) - len(records)} shards were never made; run again")
    return records


def run_parts(
    stage: Stage[Task], tasks: Sequence[Task], config: ClusterConfig, client: OpenClient
) -> None:
    """Run tasks that know themselves what is done; raises StageFailed where some failed."""
    if tasks:
        opened, rules = client(), _rules(stage, config)
        with reported(opened, config, stage.log.layout.cluster / f"dask-{stage.title}.html"):
            _run_waiting(opened, stage, tasks, rules)


def _rules(stage: Stage[Task], config: ClusterConfig) -> Rules[Task]:
    log = stage.log
    room = Room(log, config.wait_for_disk_s)
    return Rules(
        config=config,
        resources={} if stage.part else config.resources_of(log.stage),
        stamp=partial(stamp, (log.directory / RECIPE_NAME).absolute(), stage.sight),
        note=partial(_note, log.layout),
        make_room=room.make,
        bisection=stage.bisection,
        home=log.layout.cluster,
    )


def _note(layout: Layout, event: EventName, **details: Any) -> None:
    with suppress(OSError):  # a full disk has other things to say
        append(layout, event=event, **details)


def _run_waiting(
    client: Client | None, stage: Stage[Task], waiting: Sequence[Task], rules: Rules[Task]
) -> None:
    failures: list[tuple[Task, BaseException]] = []
    quarantined = tried = 0
    with Progress(stage.title, len(waiting), "clips") as progress:
        for outcome in run_tasks(client, stage.function, _by_name(waiting), rules):
            tried += 1
            if outcome.error is not None or outcome.result is None:
                failures.append((outcome.argument, outcome.error or RuntimeError("no result")))
                if _is_hopeless(failures):
                    break
                continue
            quarantined += outcome.result.counts.get("quarantined", 0)
            progress.advance(
                outcome.result.counts.get("clips", 0),
                f"{quarantined} quarantined" if quarantined else "",
            )
    if failures:
        raise _failed(stage.title, failures, tried, len(waiting))


def _by_name(tasks: Sequence[Task]) -> dict[str, Task]:
    """Under the names that Dask's dashboard shows and groups, as `shard-000012`."""
    return {task.title.replace(" ", "-"): task for task in tasks}


def _is_hopeless(failures: Sequence[tuple[Task, BaseException]]) -> bool:
    """Whether the next shards would fail like the last one, or like these many."""
    error = failures[-1][1]
    is_lasting = isinstance(error, OSError) and error.errno in LASTING
    return is_lasting or isinstance(error, AudiolexError) or len(failures) == MANY_FAILURES


def _failed(
    title: str, failures: Sequence[tuple[Task, BaseException]], tried: int, num_tasks: int
) -> AudiolexError:
    for task, error in failures:
        if isinstance(error, AudiolexError):
            error.add_note(task.title)
            return error
    lines = [
        f"  {_where(task, error)}: {type(error).__name__}: {error}"
        for task, error in failures[:SHOWN_FAILURES]
    ]
    head = f"{title}: {len(failures)} of {tried} shards failed"
    head += "; the others are committed" if len(failures) < tried else ""
    head += f"; {num_tasks - tried} more were not tried" if tried < num_tasks else ""
    return StageFailed("\n".join([head, *lines, "Mend the cause and run the same command again."]))


def _where(task: ShardJob, error: BaseException) -> str:
    """The shard, and the clip if the error knows it."""
    return ", ".join([task.title, *notes_of(error)])
