"""`python -m pipeline VERB CONFIG [key=value ...]`: from audio to token shards.

Work is imported when a verb runs: dask and faiss take a second that `--help` should not.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from configs.cli import AnyVerb, Mode, RunVerb, Verb, main
from configs.signals import leave

if TYPE_CHECKING:
    from configs.schema import Config


def stage(verb: str) -> Callable[[Config], int]:
    def run(config: Config) -> int:
        # On busy cores, threads of faiss that spin while they wait take ten times what they save.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        from pipeline.verbs import run_verb

        return run_verb(config, verb)

    return run


def estimate(config: Config) -> int:
    from pipeline import estimate

    return estimate.run(config)


def status(config: Config) -> int:
    from pipeline import status

    return status.run(config)


def watch(config: Config) -> int:
    from pipeline import watch

    return watch.run(config)


def listen(run: Path, args: argparse.Namespace) -> int:
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from pipeline.listen import listen

    listen(run, args.words, args.name)
    return 0


def _listen_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words", nargs="*", default=[], metavar="CLIP", help="ids to hear; none: three clips"
    )
    parser.add_argument(
        "--name", action="append", default=[], help="of a codebook; none: all of the run"
    )


VERBS: dict[str, AnyVerb] = {
    "shard": Verb(
        stage("shard"),
        "decode every clip into audio tars, log-mel frames and an index",
        {"--dry-run": Mode(estimate, "plan only: counts, bytes, hours")},
    ),
    "codebook": Verb(stage("codebook"), "find the K centroids that are the vocabulary"),
    "tokenize": Verb(stage("tokenize"), "turn every clip into its sequence of tokens"),
    "all": Verb(stage("all"), "shard, codebook, tokenize"),
    "status": Verb(
        status,
        "show what is made and what is in quarantine",
        {"--watch": Mode(watch, "go on showing it until all is made", only_looks=True)},
    ),
    "listen": RunVerb(
        listen,
        "a page on which clips and tokens can be heard, from a run's codebooks",
        _listen_options,
    ),
}

if __name__ == "__main__":
    leave(main("pipeline", VERBS))
