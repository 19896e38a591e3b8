"""`make torture NAME=ingest`: the promises P1 to P6 and P12 of the shard stage, tried until they
break or hold.

    points     every file system call of a job, once each with SIGKILL, ENOSPC and EIO
    kills      SIGKILL at random moments, until the job is done, over and over
    flips      one flipped bit anywhere in a run: found by `verify`, refused by readers
    layouts    1 to 8 workers, orders, kills, BLAS kernels: one tree
    broken     ESC-10 and 300 broken files in one run whose workers are killed
    scale      memory and CPU time at 1 and at 10 times the clips

Seeded; a part that is done is not run again after an interruption (delete its file to do so). Ends
in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.commands import ROOT
from tests.torture.crashes import kills, layouts, points
from tests.torture.damage import broken, flips
from tests.torture.growth import scale
from tests.torture.job import Report

PARTS: dict[str, Callable[[Path], Report]] = {
    "points": points,
    "kills": kills,
    "flips": flips,
    "layouts": layouts,
    "broken": broken,
    "scale": scale,
}


def main() -> int:
    """Run what has not been run, in order; print each part's figures as it ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], default=list(PARTS))
    parser.add_argument("--directory", type=Path, default=ROOT / "runs/torture/ingest")
    args = parser.parse_args()
    reports: Report = {}
    for name in args.parts or PARTS:
        place = args.directory / name
        kept = args.directory / f"{name}.json"
        if not kept.exists():
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            began_s = time.monotonic()
            report = PARTS[name](place)
            report["seconds"] = round(time.monotonic() - began_s, 1)
            kept.write_text(json.dumps(report))
            shutil.rmtree(place)
        reports[name] = json.loads(kept.read_text())
        print(f"{name}: {json.dumps(reports[name])}", flush=True)
    print(json.dumps({"torture": "ingest", **reports}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
