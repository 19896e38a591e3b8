"""`make torture NAME=cluster`: what clusters do to a job, again and again.

    kills      the ESC-10 job, of which a worker, the scheduler or the driver is killed: one tree
    jobs       a made AudioSet on a batch system whose jobs are killed: one tree

Seeded; ends in one JSON line.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from tests.torture.jobs import jobs
from tests.torture.losses import kills
from tests.torture.parts import Part, main

PARTS: Mapping[str, Part] = {"kills": kills, "jobs": jobs}

if __name__ == "__main__":
    sys.exit(main("cluster", "a job whose workers, scheduler or driver are lost", PARTS))
