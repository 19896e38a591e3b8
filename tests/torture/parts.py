"""The command line of a torture: parts that are tried one after the other, each kept when done."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.commands import ROOT
from tests.torture.hosts import NotHere
from tests.torture.job import Report

Part = Callable[[Path], Report]
NOT_TRIED = "not_tried"


def main(name: str, about: str, parts: Mapping[str, Part]) -> int:
    """Run what has not been run, in order; print each part's figures as it ends. A part that is
    done is not run again after an interruption; delete its file to do so."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts)}; or all")
    parser.add_argument("--directory", type=Path, default=ROOT / "runs/torture" / name)
    args = parser.parse_args()
    unknown = [part for part in args.parts if part not in parts]
    if unknown:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(parts)}")
    reports: Report = {}
    for part in args.parts or parts:
        kept = args.directory / f"{part}.json"
        if not kept.exists():
            reports[part] = _tried(parts[part], args.directory / part)
            if NOT_TRIED not in reports[part]:
                partial = kept.with_suffix(".partial")
                partial.write_text(json.dumps(reports[part]))
                partial.replace(kept)
        else:
            reports[part] = json.loads(kept.read_text())
        print(f"{part}: {json.dumps(reports[part])}", flush=True)
    print(json.dumps({"torture": name, **reports}))
    return 0


def _tried(part: Part, place: Path) -> Report:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    began_s = time.monotonic()
    try:
        report = part(place)
    except NotHere as error:
        report = {NOT_TRIED: str(error)}
    report["seconds"] = round(time.monotonic() - began_s, 1)
    shutil.rmtree(place)
    return report
