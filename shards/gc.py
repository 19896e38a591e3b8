"""Remove what no record names: files of shards that were made twice, or of deleted records."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from configs.errors import IntegrityError
from shards.atomic import sweep
from shards.layout import Layout
from shards.verify import verify


@dataclass(frozen=True)
class Garbage:
    """Files that nothing refers to, and their size."""

    paths: tuple[Path, ...]
    bytes: int


def find_garbage(layout: Layout) -> Garbage:
    """What `collect` would remove.

    Raises IntegrityError where the run is damaged: a record that cannot be read names nothing.
    """
    findings = verify(layout, "quick")
    if findings.faults:
        raise IntegrityError(
            f"{layout.root} is damaged ({len(findings.faults)} faults), so nothing was removed; "
            f"run `python -m shards verify {layout.root} --repair` first"
        )
    paths = tuple(layout.root / name for name in findings.extra)
    return Garbage(paths, sum(path.stat().st_size for path in paths))


def collect(layout: Layout) -> Garbage:
    """Remove it, with what killed attempts left and directories that are empty then. Hold the
    run's lock."""
    garbage = find_garbage(layout)
    for path in garbage.paths:
        path.unlink()
        for directory in path.parents:
            if directory == layout.root or any(directory.iterdir()):
                break
            directory.rmdir()
    sweep(layout.partial)
    return garbage
