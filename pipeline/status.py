"""What a run holds, from its files alone: shards done, seals, and the quarantine by reason."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from configs.console import say
from configs.schema import Config
from pipeline.shard import NAME
from shards import plan as plans
from shards.codebook import codebook_names
from shards.commit import StageLog
from shards.index import QUARANTINED, read_shard_index
from shards.layout import Layout
from shards.seal import find_seal

EXAMPLES = 3


def run(config: Config) -> int:
    """Print the state of every stage of the config's run; reads only."""
    layout = Layout(config.run)
    if not layout.plan_json.exists():
        say(f"{layout.root}: nothing made yet; `python -m pipeline shard` begins")
        return 0
    plan = plans.load(layout)
    say(f"{layout.root}: {plan.num_clips} clips in {plan.num_shards} shards")
    _say_stage(layout, "shard", NAME, plan.num_shards)
    for name, _ in codebook_names(config.codebook, config.split):
        _say_stage(layout, "codebook", name, 1)
        _say_stage(layout, "tokenize", name, plan.num_shards)
    say_quarantine(layout)
    return 0


def _say_stage(layout: Layout, stage: str, name: str, total: int) -> None:
    done = len(StageLog(layout, stage, name).committed())
    sealed = ", sealed" if find_seal(layout, stage, name) else ""
    title = stage if name == "default" else f"{stage} {name}"
    say(f"  {title}: {done} of {total} committed{sealed}")


def say_quarantine(layout: Layout) -> None:
    """Refused clips by reason, with example ids."""
    table = quarantined(layout)
    for reason in sorted(set(table.column("reason").to_pylist())):
        rows = table.filter(pc.equal(table.column("reason"), reason))
        ids = ", ".join(rows.column("id").to_pylist()[:EXAMPLES])
        detail = rows.column("detail")[0].as_py()
        say(f"  quarantine: {rows.num_rows} {reason} (as {ids}: {detail})")


def quarantined(layout: Layout) -> pa.Table:
    """Index rows of all quarantined clips of committed shards."""
    log = StageLog(layout, "shard", NAME)
    records = [record for record in map(log.record, sorted(log.committed())) if record]
    tables = [read_shard_index(layout, record) for record in records]
    if not tables:
        return pa.table({"reason": [], "id": [], "detail": []})
    table = pa.concat_tables(tables)
    return table.filter(pc.equal(table.column("status"), QUARANTINED))
