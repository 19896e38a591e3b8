"""`train fit`: train every model that the config names, and commit each one.

What is committed is seen before torch is imported, so a second `fit` answers at once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from configs import console
from configs.console import say
from configs.errors import Preempted
from configs.load import dump_config, load_config
from configs.models import BagModel
from configs.schema import Config
from shards.atomic import sweep, write_whole
from shards.commit import fingerprint
from shards.events import timed
from shards.layout import Layout
from shards.lock import hold
from shards.stream.remote import files_of
from shards.stream.schedule import World
from train.jobs import Job, jobs, recipe
from train.stop import Stop
from train.world import Meeting, world_of

OF_THE_PIPELINE = ("run", "source", "shards", "audio", "frames", "quarantine", "cluster")


def run(config: Config) -> int:
    """Train what is not trained yet; a killed run goes on from its newest checkpoint. Of several
    ranks, the first one writes, and speaks.

    Raises Preempted where a signal came, once what can be saved is saved, and InputError for a
    `data.remote` of no known kind.
    """
    layout, world = Layout(config.run), world_of(os.environ)
    stop, is_first = Stop(), world.rank == 0
    console.is_quiet = not is_first
    files_of(layout.root, config.data)  # an address that nobody can read is not kept
    with timed(layout, "fit") if is_first else nullcontext():
        for together in _shares([*jobs(config)], world):
            with Meeting() as meeting:
                for job in together:
                    if stop.asked:  # in the last step of the model before
                        raise Preempted(f"stopped before fit {job.name}; run again")
                    with hold(layout.fit_lock(job.name)) if is_first else nullcontext():
                        fit_job(config, job, stop, world, meeting)
        if is_first:
            _save_config(config, layout, job.partial)
    return 0


def _shares(todo: Sequence[Job], world: World) -> list[list[Job]]:
    """What is fitted one after another. Of several ranks only the first one fits bags, once the
    others need not wait for it."""
    if world.num_ranks == 1:
        return [[*todo]]
    bags = [job for job in todo if isinstance(job.model, BagModel)]
    others = [job for job in todo if job not in bags]
    return [others, bags] if world.rank == 0 else [others]


def _save_config(config: Config, layout: Layout, partial: Path) -> None:
    """Let the run stand for these models from now on; of the sections that no model was checked
    against, the run's own stay. Only once all is done: a refused config replaces nothing."""
    saved = load_config(layout.root) if layout.config.exists() else config
    kept = {name: getattr(saved, name) for name in OF_THE_PIPELINE}
    text = dump_config(config.model_copy(update=kept))
    write_whole(partial, layout.config, text.encode())


def fit_job(config: Config, job: Job, stop: Stop, world: World, meeting: Meeting) -> None:
    """Train and commit one model, unless it is committed."""
    decided = recipe(config, job)
    if world.rank == 0:
        sweep(job.partial)
        job.log.open(decided, job.checkpoints)
    if job.record() is not None:
        say(f"fit {job.name}: committed, nothing to do")
        return
    from train.trainers import train_and_commit  # torch and transformers take ten seconds

    train_and_commit(config, job, fingerprint(decided), stop, world, meeting)
