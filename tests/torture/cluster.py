"""`make torture NAME=cluster`: what clusters do to a job, again and again.

    kills      the ESC-10 job, of which a worker, the scheduler or the driver is killed
    losses     the same with nodes that fail, workers that freeze and thaw, and what is told to go
    jobs       a made AudioSet on a batch system whose jobs are killed
    disk       a disk that is full at some point, and emptied
    link       two hosts, the link between them cut for a while
    poison     a clip that kills every worker which reads it

Each must end at the tree of an undisturbed run. Seeded; ends in one JSON line.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from tests.torture.faults import disk, link, poison
from tests.torture.jobs import jobs
from tests.torture.losses import kills, losses
from tests.torture.parts import Part, main

PARTS: Mapping[str, Part] = {
    "kills": kills,
    "losses": losses,
    "jobs": jobs,
    "disk": disk,
    "link": link,
    "poison": poison,
}

if __name__ == "__main__":
    sys.exit(main("cluster", "a job of which something is lost", PARTS))
