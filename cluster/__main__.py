"""`python -m cluster VERB CONFIG [key=value ...]`: a cluster that stands between commands."""

from __future__ import annotations

import sys

from configs.cli import Verb, main
from configs.schema import Config


def up(config: Config) -> int:
    from cluster import verbs

    return verbs.up(config)


def status(config: Config) -> int:
    from cluster import verbs

    return verbs.status(config)


def down(config: Config) -> int:
    from cluster import verbs

    return verbs.down(config)


VERBS = {
    "up": Verb(up, "start a scheduler and workers that outlive the command"),
    "status": Verb(status, "show the cluster that stands in the run, and its workers"),
    "down": Verb(down, "end it"),
}

if __name__ == "__main__":
    sys.exit(main("cluster", VERBS))
