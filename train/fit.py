"""`train fit`: train every model that the config names, and commit each one.

What is committed is seen before torch is imported, so a second `fit` answers at once.
"""

from __future__ import annotations

from configs.console import say
from configs.errors import Preempted
from configs.load import dump_config
from configs.schema import Config
from shards.atomic import sweep, write_whole
from shards.events import timed
from shards.layout import Layout
from shards.lock import hold
from train.jobs import Job, jobs, recipe
from train.stop import Stop


def run(config: Config) -> int:
    """Train what is not trained yet; a killed run goes on from its newest checkpoint.

    Raises Preempted where a signal came, once what can be saved is saved.
    """
    layout = Layout(config.run)
    stop = Stop()
    with timed(layout, "fit"):
        for job in jobs(config):
            if stop.asked:  # in the last step of the model before
                raise Preempted(f"stopped before fit {job.name}; run again")
            with hold(job.directory / "fit.lock"):
                fit_job(config, job, stop)
                write_whole(job.partial, layout.config, dump_config(config).encode())
    return 0


def fit_job(config: Config, job: Job, stop: Stop) -> None:
    """Train and commit one model, unless it is committed."""
    fingerprint = job.log.open(recipe(config, job), job.checkpoints)
    if job.record() is not None:
        say(f"fit {job.name}: committed, nothing to do")
        return
    from train.trainers import train_and_commit  # torch and transformers take ten seconds

    sweep(job.partial)
    train_and_commit(config, job, fingerprint, stop)
