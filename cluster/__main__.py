"""`python -m cluster VERB CONFIG [key=value ...]`: a cluster that stands between commands, and
what is submitted for one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from configs.cli import Verb, main
from configs.signals import leave

if TYPE_CHECKING:
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


def script(config: Config) -> int:
    from cluster.script import script

    sys.stdout.write(script(config))
    return 0


VERBS = {
    "up": Verb(up, "start a scheduler and workers that outlive the command"),
    "status": Verb(status, "show the cluster that stands in the run, and its workers"),
    "down": Verb(down, "end it"),
    "script": Verb(script, "print what would be submitted, for workers and for training"),
}

if __name__ == "__main__":
    leave(main("cluster", VERBS))
