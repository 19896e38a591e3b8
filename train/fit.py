"""`train fit`: train every model that the config names, and commit each one.

What is committed is seen before torch is imported, so a second `fit` answers at once.
"""

from __future__ import annotations

from pathlib import Path

from configs.console import say
from configs.errors import Preempted
from configs.load import dump_config, load_config
from configs.schema import Config
from shards.atomic import sweep, write_whole
from shards.events import timed
from shards.layout import Layout
from shards.lock import hold
from shards.stream.remote import files_of
from train.jobs import Job, jobs, recipe
from train.stop import Stop

OF_THE_PIPELINE = ("run", "source", "shards", "audio", "frames", "quarantine", "cluster")


def run(config: Config) -> int:
    """Train what is not trained yet; a killed run goes on from its newest checkpoint.

    Raises Preempted where a signal came, once what can be saved is saved, and InputError for a
    `data.remote` of no known kind.
    """
    layout = Layout(config.run)
    stop = Stop()
    files_of(layout.root, config.data)  # an address that nobody can read is not kept
    with timed(layout, "fit"):
        for job in jobs(config):
            if stop.asked:  # in the last step of the model before
                raise Preempted(f"stopped before fit {job.name}; run again")
            with hold(job.directory / "fit.lock"):
                fit_job(config, job, stop)
        _save_config(config, layout, job.partial)
    return 0


def _save_config(config: Config, layout: Layout, partial: Path) -> None:
    """Let the run stand for these models from now on; of the sections that no model was checked
    against, the run's own stay. Only once all is done: a refused config replaces nothing."""
    saved = load_config(layout.root) if layout.config.exists() else config
    kept = {name: getattr(saved, name) for name in OF_THE_PIPELINE}
    text = dump_config(config.model_copy(update=kept))
    write_whole(partial, layout.config, text.encode())


def fit_job(config: Config, job: Job, stop: Stop) -> None:
    """Train and commit one model, unless it is committed."""
    fingerprint = job.log.open(recipe(config, job), job.checkpoints)
    if job.record() is not None:
        say(f"fit {job.name}: committed, nothing to do")
        return
    from train.trainers import train_and_commit  # torch and transformers take ten seconds

    sweep(job.partial)
    train_and_commit(config, job, fingerprint, stop)
