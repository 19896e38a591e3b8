"""What a run holds, from its files alone: shards done, seals, trainings, and the
quarantine by reason."""

from __future__ import annotations

from configs.console import say
from configs.schema import Config
from pipeline.audio.refusal import REASONS
from pipeline.look import Lookout
from pipeline.view import headline, stage_line, training_line
from shards.commit import StageLog
from shards.index import NAME, STAGE, refusals
from shards.layout import Layout


def run(config: Config) -> int:
    """Print the state of every stage and training of the config's run; reads only."""
    sight = Lookout(config).look()
    say(headline(sight))
    for stage in sight.stages:
        say(f"  {stage_line(stage)}")
    for training in sight.trainings:
        say(f"  {training_line(training)}")
    if sight.stages:
        say_quarantine(Layout(config.run))
    return 0


def say_quarantine(layout: Layout) -> None:
    """Refused clips by reason, with example ids."""
    log = StageLog(layout, STAGE, NAME)
    records = [record for record in map(log.record, sorted(log.committed())) if record]
    for group in refusals(layout, records):
        ids = ", ".join(group.examples)
        meaning = REASONS.get(group.reason, "")
        say(f"  quarantine: {group.count} {group.reason}: {meaning}")
        say(f"    {ids} ({group.detail})")
