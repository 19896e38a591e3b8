"""`make torture NAME=ingest`: the promises P1 to P6 and P12 of the shard stage, tried until they
break or hold.

    points     every file system call of a job, once each with SIGKILL, ENOSPC and EIO
    kills      SIGKILL at random moments, until the job is done, over and over
    flips      one flipped bit anywhere in a run: found by `verify`
    layouts    1 to 8 workers, kills, BLAS kernels, locales, umasks: one tree
    broken     ESC-10 and 300 broken files in one run whose workers are killed
    scale      memory and CPU time at 1 and at 10 times the clips

Seeded; a part that is done is not run again after an interruption (delete its file to do so). Ends
in one JSON line.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from tests.torture.crashes import kills, layouts, points
from tests.torture.damage import broken, flips
from tests.torture.growth import scale
from tests.torture.parts import Part, main

PARTS: Mapping[str, Part] = {
    "points": points,
    "kills": kills,
    "flips": flips,
    "layouts": layouts,
    "broken": broken,
    "scale": scale,
}


if __name__ == "__main__":
    sys.exit(main("ingest", "the promises of the shard stage, tried until they break", PARTS))
