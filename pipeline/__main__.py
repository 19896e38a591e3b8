"""`python -m pipeline VERB CONFIG [key=value ...]`: from audio to token shards."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from cluster.launch import OpenClient, open_client
from configs.cli import Verb, main
from configs.schema import Config
from pipeline import codebook, estimate, shard, status, tokenize_stage
from pipeline.driver import driving, quarantine_exit_code
from shards.layout import Layout

Stage = Callable[[Config, Layout, OpenClient], None]


def runs(verb: str, stages: Sequence[Stage]) -> Callable[[Config], int]:
    """A verb that holds the run and goes through some stages with one cluster."""

    def run(config: Config) -> int:
        with driving(config, verb) as layout, open_client(config.cluster) as client:
            for stage in stages:
                stage(config, layout, client)
            return quarantine_exit_code(config, layout)

    return run


STAGES: dict[str, Sequence[Stage]] = {
    "shard": [shard.run],
    "codebook": [codebook.run],
    "tokenize": [tokenize_stage.run],
    "all": [shard.run, codebook.run, tokenize_stage.run],
}
HELP = {
    "shard": "decode every clip into audio tars, log-mel frames and an index",
    "codebook": "find the K centroids that are the vocabulary",
    "tokenize": "turn every clip into its sequence of tokens",
    "all": "shard, codebook, tokenize",
}
VERBS = {
    **{
        verb: Verb(runs(verb, stages), HELP[verb], estimate.run if verb == "shard" else None)
        for verb, stages in STAGES.items()
    },
    "status": Verb(status.run, "show what is made and what is in quarantine"),
}

if __name__ == "__main__":
    sys.exit(main("pipeline", VERBS))
