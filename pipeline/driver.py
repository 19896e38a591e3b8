"""What every pipeline verb does around its work: lock the run, sweep, save the config, time it."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

from distributed import Client

from cluster.launch import OpenClient
from cluster.submit import run_tasks
from configs.cli import QUARANTINE_EXIT_CODE
from configs.console import Progress, say
from configs.errors import AudiolexError, InputError, IntegrityError, StageFailed, notes_of
from configs.load import dump_config
from configs.schema import Config
from shards.atomic import create_whole, make_directory, sweep, write_whole
from shards.commit import CommitRecord, StageLog
from shards.events import timed
from shards.index import open_shards
from shards.layout import Layout
from shards.lock import hold

SHOWN_FAILURES, MANY_FAILURES = 5, 16
FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


class ShardJob(Protocol):
    """A task that makes one shard."""

    @property
    def label(self) -> str:
        """Stage and shard, as `shard 000012`: what people and Dask call it."""


Task = TypeVar("Task", bound=ShardJob)


@contextmanager
def driving(config: Config, verb: str) -> Iterator[Layout]:
    """Hold the run for one verb; raises RunLocked where another driver is at work."""
    layout = Layout(config.run)
    try:
        make_directory(layout.root)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"run: {layout.root} is no directory, and none can be made") from None
    with hold(layout.lock):
        sweep(layout.partial)
        text = dump_config(config).encode()
        create_whole(layout.partial, layout.config, text)
        with timed(layout, verb):
            yield layout
        write_whole(layout.partial, layout.config, text)  # a refused config replaces nothing


def run_shards(
    client: OpenClient,
    log: StageLog,
    function: Callable[[Task], CommitRecord],
    tasks: Sequence[Task],
    fingerprint: str,
) -> list[CommitRecord]:
    """Run the tasks of shards 0, 1 ... that have no record yet; returns all records in order.

    Raises StageFailed when tasks failed; the other shards are committed by then.
    """
    title = log.stage if log.name == "default" else f"{log.stage} {log.name}"
    done = log.committed()
    waiting = [task for shard, task in enumerate(tasks) if shard not in done]
    if not waiting:
        say(f"{title}: all {len(tasks)} shards are committed, nothing to do")
    elif done:
        say(f"{title}: {len(done)} of {len(tasks)} shards are committed, going on")
    else:
        say(f"{title}: {len(tasks)} shards")
    if waiting:
        _run_waiting(client(), title, function, waiting)
    records = [record for record in map(log.record, range(len(tasks))) if record is not None]
    if {record.fingerprint for record in records} - {fingerprint}:
        raise IntegrityError(f"{log.directory} holds records of another recipe: delete it")
    if len(records) < len(tasks):
        raise StageFailed(f"{title}: {len(tasks) - len(records)} shards were never made; run again")
    return records


def _run_waiting(
    client: Client | None,
    title: str,
    function: Callable[[Task], CommitRecord],
    waiting: Sequence[Task],
) -> None:
    failures: list[tuple[Task, BaseException]] = []
    quarantined = tried = 0
    with Progress(title, len(waiting), "clips") as progress:
        for outcome in run_tasks(client, function, _by_key(waiting)):
            tried += 1
            if outcome.error is not None or outcome.result is None:
                failures.append((outcome.argument, outcome.error or RuntimeError("no result")))
                if _is_hopeless(failures):
                    break
                continue
            quarantined += outcome.result.counts.get("quarantined", 0)
            progress.advance(
                outcome.result.counts["clips"],
                f"{quarantined} quarantined" if quarantined else "",
            )
    if failures:
        raise _failed(title, failures, tried, len(waiting))


def _by_key(tasks: Sequence[Task]) -> dict[str, Task]:
    """Under the keys that Dask's dashboard shows and groups, as `shard-000012`."""
    return {task.label.replace(" ", "-"): task for task in tasks}


def _is_hopeless(failures: Sequence[tuple[Task, BaseException]]) -> bool:
    """Whether the next shards would fail like the last one, or like these many."""
    error = failures[-1][1]
    is_full = isinstance(error, OSError) and error.errno in FULL_DISK
    return is_full or isinstance(error, AudiolexError) or len(failures) == MANY_FAILURES


def _failed(
    title: str, failures: Sequence[tuple[Task, BaseException]], tried: int, num_tasks: int
) -> AudiolexError:
    for task, error in failures:
        if isinstance(error, AudiolexError):
            error.add_note(task.label)
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
    return ", ".join([task.label, *notes_of(error)])


def quarantine_exit_code(config: Config, layout: Layout) -> int:
    """0, or 3 with a message where more clips were refused than the config allows."""
    seal = open_shards(layout)
    refused, total = seal.total("quarantined"), seal.total("clips")
    if refused <= config.quarantine.max_share * total:
        return 0
    say(
        f"warning: {refused} of {total} clips ({refused / total:.1%}) are in quarantine, above "
        f"quarantine.max_share={config.quarantine.max_share:g}; "
        f"`python -m pipeline status {layout.root}` lists them; a higher max_share goes on"
    )
    return QUARANTINE_EXIT_CODE
