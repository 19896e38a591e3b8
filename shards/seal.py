"""Seals: the list of a stage's commit records in order, written last; what a reader opens.

The hash of a seal is the fingerprint of the data set that it names. A reader never lists a
directory: a shard without its place in a seal does not exist for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from configs.errors import IntegrityError, NotMadeYet
from shards.atomic import create_whole, sha256_file
from shards.commit import REPAIR, CommitRecord, FileRecord, StageLog, canonical_json
from shards.layout import SHA_CHARS, Layout

FORMAT = 1


@dataclass(frozen=True)
class Seal:
    """A finished set of shards, and files made for the whole set."""

    layout: Layout
    stage: str
    name: str
    fingerprint: str
    recipe_fingerprint: str
    commits: tuple[Mapping[str, str], ...]  # path and hash of each record
    shared: Mapping[str, FileRecord]  # files of the whole set, as the token index

    @cached_property
    def records(self) -> tuple[CommitRecord, ...]:
        """The commit records in shard order; raises IntegrityError where one is not as it was
        sealed. Who needs the shared files only does not pay for them."""
        return tuple(_checked_record(self.layout, line) for line in self.commits)

    def total(self, count: str) -> int:
        return sum(record.counts.get(count, 0) for record in self.records)

    def shared_file(self, key: str) -> Path:
        """Path of a file of the whole set; raises IntegrityError where it changed."""
        file = self.shared[key]
        check_bytes(self.layout.root, file)
        return self.layout.root / file.path


def write_seal(
    log: StageLog,
    records: Sequence[CommitRecord],
    shared: Mapping[str, FileRecord] | None = None,
) -> Path:
    """Seal `records`; checks that every file they name is there in its full size."""
    root = log.layout.root
    for record in records:
        for file in record.files:
            check_size(root, file)
    tree = {
        "format": FORMAT,
        "stage": log.stage,
        "name": log.name,
        "recipe": records[0].fingerprint if records else "",
        "commits": [_commit_line(log, record) for record in records],
        "shared": {key: vars(file) for key, file in (shared or {}).items()},
    }
    data = canonical_json(tree)
    sha256 = hashlib.sha256(data).hexdigest()
    path = log.layout.seals / f"{log.stage}-{sha256[:SHA_CHARS]}.json"
    create_whole(log.layout.partial, path, data)
    return path


def find_seal(layout: Layout, stage: str, name: str) -> Path | None:
    """The seal of a stage under a name. Where a shard was made anew, with other bytes, an older
    one may stand beside it: the one whose records are there counts."""
    found = [
        path
        for path in sorted(layout.seals.glob(f"{stage}-*.json"))
        if _read(path)[0]["name"] == name
    ]
    if len(found) < 2:
        return found[0] if found else None
    return next((path for path in found if _holds(layout, path)), found[0])


def _holds(layout: Layout, path: Path) -> bool:
    try:
        _ = read_seal(layout, path).records
    except IntegrityError:
        return False
    return True


def open_seal(layout: Layout, stage: str, name: str) -> Seal:
    """The sealed set; raises NotMadeYet if the stage has not finished, IntegrityError if its seal
    is damaged."""
    path = find_seal(layout, stage, name)
    if path is None:
        raise NotMadeYet(
            f"{layout.root}: no finished {stage} ({name}); run `python -m pipeline {stage}` first"
        )
    return read_seal(layout, path)


def read_seal(layout: Layout, path: Path) -> Seal:
    """The set that a seal names; raises IntegrityError where it is not the one that was written."""
    tree, sha256 = _read(path)
    return Seal(
        layout=layout,
        stage=tree["stage"],
        name=tree["name"],
        fingerprint=sha256,
        recipe_fingerprint=tree["recipe"],
        commits=tuple(tree["commits"]),
        shared={key: FileRecord(**file) for key, file in tree["shared"].items()},
    )


def _read(path: Path) -> tuple[dict[str, Any], str]:
    """A seal and its hash, which its name has to bear."""
    data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256[:SHA_CHARS] != path.stem.rpartition("-")[2]:
        raise IntegrityError(f"{path} is damaged; {REPAIR}")
    tree: dict[str, Any] = json.loads(data)
    return tree, sha256


def check_size(root: Path, file: FileRecord) -> None:
    """Raises IntegrityError unless the file is there in its full size."""
    try:
        size = (root / file.path).stat().st_size
    except FileNotFoundError:
        size = -1
    if size != file.bytes:
        found = "is missing" if size < 0 else f"has {size} bytes, not {file.bytes}"
        raise IntegrityError(f"{root / file.path} {found}; {REPAIR}")


def check_bytes(root: Path, file: FileRecord) -> None:
    """Raises IntegrityError unless the file is the one on record, bit by bit: for small files."""
    check_size(root, file)
    if sha256_file(root / file.path) != file.sha256:
        raise IntegrityError(f"{root / file.path} is damaged; {REPAIR}")


def _commit_line(log: StageLog, record: CommitRecord) -> dict[str, Any]:
    path = log.path(record.shard)
    return {
        "path": path.relative_to(log.layout.root).as_posix(),
        "sha256": hashlib.sha256(record.to_json()).hexdigest(),
    }


def _checked_record(layout: Layout, line: Mapping[str, str]) -> CommitRecord:
    path = layout.root / line["path"]
    data = path.read_bytes() if path.exists() else b""
    if hashlib.sha256(data).hexdigest() != line["sha256"]:
        raise IntegrityError(f"{path} is not the record that was sealed: run the stage again")
    return CommitRecord.from_json(data)
