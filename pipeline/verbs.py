"""What the pipeline's verbs do: hold the run and go through stages with one cluster."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from cluster.faults import require_sound
from cluster.launch import OpenClient, open_client
from configs.schema import Config
from pipeline.driver import driving, quarantine_exit_code
from shards.layout import Layout

STAGES = {"shard": "shard", "codebook": "codebook", "tokenize": "tokenize_stage"}


def run_verb(config: Config, verb: str) -> int:
    """Run one stage, or with `all` every stage in turn; returns the exit code."""
    names = list(STAGES) if verb == "all" else [verb]
    with driving(config, verb) as layout, open_client(config.cluster, layout.cluster) as client:
        if not layout.plan_json.exists():  # to plan takes a while, for nothing if there is no place
            require_sound(config.cluster, layout.cluster)
        for name in names:
            stage_of(name)(config, layout, client)
        return quarantine_exit_code(config, layout) if "shard" in names else 0


def stage_of(name: str) -> Callable[[Config, Layout, OpenClient], None]:
    """What runs a stage; imported now, so that no stage waits for what another one needs."""
    run: Callable[[Config, Layout, OpenClient], None]
    run = importlib.import_module(f"pipeline.{STAGES[name]}").run
    return run
