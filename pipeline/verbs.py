"""What the pipeline's verbs do: hold the run and go through stages with one cluster."""

from __future__ import annotations

from collections.abc import Callable

from cluster.faults import require_sound
from cluster.launch import OpenClient, open_client
from configs.schema import Config
from pipeline import codebook, shard, tokenize_stage
from pipeline.driver import driving, quarantine_exit_code
from shards.layout import Layout

STAGES: dict[str, Callable[[Config, Layout, OpenClient], None]] = {
    "shard": shard.run,
    "codebook": codebook.run,
    "tokenize": tokenize_stage.run,
}


def run_verb(config: Config, verb: str) -> int:
    """Run one stage, or with `all` every stage in turn; returns the exit code."""
    names = list(STAGES) if verb == "all" else [verb]
    with driving(config, verb) as layout, open_client(config.cluster, layout.cluster) as client:
        if not layout.plan_json.exists():  # to plan takes a while, for nothing if there is no place
            require_sound(config.cluster, layout.cluster)
        for name in names:
            STAGES[name](config, layout, client)
        return quarantine_exit_code(config, layout) if "shard" in names else 0
