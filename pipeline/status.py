"""What a run holds, from its files alone: shards done, seals, and the quarantine by reason."""

from __future__ import annotations

from configs.console import say
from configs.schema import Config
from pipeline.audio.refusal import REASONS
from shards import plan as plans
from shards.codebook import codebook_names
from shards.commit import StageLog
from shards.index import NAME, STAGE, refusals
from shards.layout import Layout
from shards.seal import find_seal
from shards.verify import stage_logs

TOTALS = {STAGE: None, "codebook": 1, "tokenize": None, "fit": 1}  # None: one a shard


def run(config: Config) -> int:
    """Print the state of every stage of the config's run; reads only."""
    layout = Layout(config.run)
    if not layout.plan_json.exists():
        say(f"{layout.root}: nothing made yet; `python -m pipeline shard` begins")
        return 0
    plan = plans.load(layout)
    say(f"{layout.root}: {plan.num_clips} clips in {plan.num_shards} shards")
    for stage, total in TOTALS.items():
        for name in _names(layout, stage, config):
            _say_stage(layout, stage, name, total or plan.num_shards)
    say_quarantine(layout)
    return 0


def _names(layout: Layout, stage: str, config: Config) -> list[str]:
    """What stands under a stage, and what the config asks for."""
    begun = [log.name for log in stage_logs(layout) if log.stage == stage]
    if stage == STAGE:
        return [NAME]
    wanted = codebook_names(config.codebook, config.split) if stage != "fit" else []
    return list(dict.fromkeys([*begun, *(name for name, _ in wanted)]))


def _say_stage(layout: Layout, stage: str, name: str, total: int) -> None:
    done = len(StageLog(layout, stage, name).committed())
    sealed = ", sealed" if find_seal(layout, stage, name) else ""
    title = stage if name == "default" else f"{stage} {name}"
    say(f"  {title}: {done} of {total} committed{sealed}")


def say_quarantine(layout: Layout) -> None:
    """Refused clips by reason, with example ids."""
    log = StageLog(layout, STAGE, NAME)
    records = [record for record in map(log.record, sorted(log.committed())) if record]
    for group in refusals(layout, records):
        ids = ", ".join(group.examples)
        meaning = REASONS.get(group.reason, "")
        say(f"  quarantine: {group.count} {group.reason}: {meaning}")
        say(f"    {ids} ({group.detail})")
