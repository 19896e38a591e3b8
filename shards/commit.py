"""Commit records: the only proof that a shard exists, and the whole of resume.

A task writes its files under names that carry their own hash, then creates its record
`commits/<stage>/<name>/000123.json` exclusively: the first record stands, a second attempt must
say the same. `recipe.json` beside the records holds everything that decides the bytes; its hash
is the stage's fingerprint, and another recipe is refused with the keys that differ.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from configs.errors import DifferentBytes, IntegrityError, RecipeMismatch
from shards.atomic import (
    Attempt,
    create_whole,
    sha256_file,
    sync_directory,
    sync_file,
    write_whole,
)
from shards.layout import Layout

RECIPE_NAME = "recipe.json"
HASH_KEY = "record_sha256"
_RECORD_NAME = re.compile(r"[0-9]{6,}\.json")
REPAIR = "`python -m shards verify RUN --repair` lets the next run rebuild it"
CURE = (
    "Ask for the old settings again (of a library, install the old version), or give another "
    "run=DIR (codebooks and what follows them: another codebook.name=NAME keeps the decoded "
    "frames; models: another name under models)."
)


def canonical_json(value: Any) -> bytes:
    """The one JSON spelling of a value: sorted keys, no blanks, a newline at the end."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode() + b"\n"


def fingerprint(value: Any) -> str:
    """sha256 of the canonical JSON of a value, as 64 hex digits."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def ids_sha256(ids: Iterable[str]) -> str:
    """Hash of a list of clip ids in order."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


@dataclass(frozen=True)
class FileRecord:
    """One file that a commit made; `path` is relative to the run."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Written:
    """A partial file that is written to its end: now its hash is known, and so its name."""

    attempt: Attempt
    name: str
    bytes: int
    sha256: str

    @classmethod
    def of(cls, attempt: Attempt, name: str) -> Self:
        path = attempt.path(name)
        return cls(attempt, name, path.stat().st_size, sha256_file(path))

    def publish(self, root: Path, final: Path) -> FileRecord:
        """Move the file to its final place in the run at `root`, and describe it."""
        self.attempt.publish(self.name, final)
        return FileRecord(final.relative_to(root).as_posix(), self.bytes, self.sha256)


def publish_bytes(partial: Path, root: Path, final: Path, data: bytes) -> FileRecord:
    """Make `final` hold `data`, and describe it; a file that holds it already is made durable."""
    if final.exists() and final.read_bytes() == data:
        sync_file(final)  # whoever wrote it may have died before
        sync_directory(final.parent)
    else:
        write_whole(partial, final, data)
    sha256 = hashlib.sha256(data).hexdigest()
    return FileRecord(final.relative_to(root).as_posix(), len(data), sha256)


@dataclass(frozen=True)
class CommitRecord:
    """What one task made: counts, a hash of its clip ids, and its files with their hashes."""

    stage: str
    name: str
    shard: int
    fingerprint: str
    counts: Mapping[str, int]
    ids_sha256: str
    files: tuple[FileRecord, ...]
    detail: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """The record with its own hash in it, so that no bit of it changes unseen."""
        tree = dataclasses.asdict(self)
        return canonical_json({**tree, HASH_KEY: fingerprint(tree)})

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Raises ValueError, TypeError or KeyError for bytes that are not a whole record."""
        tree = json.loads(data)
        if not isinstance(tree, dict) or canonical_json(tree) != data:
            raise TypeError("a record is a JSON object in one spelling")
        if tree.pop(HASH_KEY) != fingerprint(tree):
            raise ValueError("its hash is not its own")
        files = tuple(FileRecord(**file) for file in tree.pop("files"))
        return cls(**tree, files=files)

    def file(self, prefix: str) -> FileRecord:
        """The first file whose path starts with `prefix`."""
        return next(file for file in self.files if file.path.startswith(prefix))


@dataclass(frozen=True)
class StageLog:
    """The records of one stage under one name (`default`, `fold1` ...).

    `partial` is where records are written before they appear, if not the run's own `partial/`:
    the pipeline sweeps that one, so a training that runs beside it has a place of its own.
    """

    layout: Layout
    stage: str
    name: str
    partial: Path | None = None

    @property
    def directory(self) -> Path:
        return self.layout.commits(self.stage, self.name)

    @property
    def _partial(self) -> Path:
        return self.partial or self.layout.partial

    def path(self, shard: int) -> Path:
        return self.directory / f"{shard:06d}.json"

    def open(self, recipe: Mapping[str, Any], begun: Path | None = None) -> str:
        """Bind the stage to a recipe; returns its fingerprint.

        The first recipe under which something was committed stands, and so does the one of
        unfinished work: `begun` is where that lies, as checkpoints. Raises RecipeMismatch for
        another. A recipe under which nothing was made yet, as after a refused k, gives way.
        """
        path, data = self.directory / RECIPE_NAME, canonical_json(recipe)
        is_begun = begun is not None and begun.exists()
        if self.committed():
            self.check(recipe)
        elif is_begun:
            self.check(recipe, f"{CURE} Or remove {begun}, and it begins anew.")
        elif not create_whole(self._partial, path, data):
            write_whole(self._partial, path, data)
        return fingerprint(recipe)

    def check(self, recipe: Mapping[str, Any], cure: str = CURE) -> None:
        """Raises RecipeMismatch, with the keys that differ, unless this is the stage's recipe."""
        stored, asked = self.recipe(), json.loads(canonical_json(recipe))
        if stored is None:
            stored = self._restored(asked)
        if stored != asked:
            what = f"{self.layout.root}: {self.stage} {self.name}"
            raise RecipeMismatch(what, differences(stored, asked), cure)

    def recipe(self) -> dict[str, Any] | None:
        """The recipe that stands, None where there is none that could be read."""
        try:
            data = (self.directory / RECIPE_NAME).read_bytes()
            tree = json.loads(data)
        except (FileNotFoundError, ValueError):
            return None
        return tree if isinstance(tree, dict) and canonical_json(tree) == data else None

    def _restored(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Write a lost recipe again, if the records prove that it is the one asked for."""
        path, stamp = self.directory / RECIPE_NAME, fingerprint(asked)
        records = [record for record in map(self.record, self.committed()) if record is not None]
        if any(record.fingerprint != stamp for record in records):
            raise IntegrityError(
                f"{path} is missing or damaged, and the records beside it were made with other "
                "settings than the ones asked for: ask for those, and it is written again"
            )
        write_whole(self._partial, path, canonical_json(asked))
        return asked

    def committed(self) -> set[int]:
        """Shards that have a record: one listing of a directory."""
        names = (path.name for path in self.directory.glob("*.json"))
        return {int(name[:-5]) for name in names if _RECORD_NAME.fullmatch(name)}

    def record(self, shard: int) -> CommitRecord | None:
        """The record of a shard, None where there is none."""
        path = self.path(shard)
        try:
            record = CommitRecord.from_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError):
            raise IntegrityError(f"{path} is damaged; {REPAIR}") from None
        if (record.stage, record.name, record.shard) != (self.stage, self.name, shard):
            raise IntegrityError(f"{path} is the record of another shard; {REPAIR}")
        return record

    def made(self, shard: int, stamp: str) -> CommitRecord | None:
        """The record of a shard, None where it has to be made. Raises IntegrityError for one that
        was made under another fingerprint than `stamp`, as by a worker that outlived its job."""
        record = self.record(shard)
        if record is not None and record.fingerprint != stamp:
            raise IntegrityError(
                f"{self.path(shard)} was made with other settings than the run's; {REPAIR}"
            )
        return record

    def commit(self, record: CommitRecord) -> CommitRecord:
        """Create the record; raises DifferentBytes if another attempt committed other bytes."""
        if create_whole(self._partial, self.path(record.shard), record.to_json()):
            return record
        first = self.record(record.shard)
        if first != CommitRecord.from_json(record.to_json()):
            raise DifferentBytes(
                f"{self.path(record.shard)}: a second attempt at this shard made other bytes than "
                "the first; the task depends on something that its recipe does not name"
            )
        return record


def differences(stored: Any, asked: Any, path: str = "") -> list[str]:
    """One line for each leaf in which two JSON trees differ: `frames.n_mels: 64 there, 128 now`."""
    if isinstance(stored, dict) and isinstance(asked, dict):
        keys = sorted(stored.keys() | asked.keys())
        below = [(f"{path}.{key}".lstrip("."), stored.get(key), asked.get(key)) for key in keys]
        return [line for name, old, new in below for line in differences(old, new, name)]
    return [] if stored == asked else [f"{path}: {_short(stored)} there, {_short(asked)} now"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def stage_logs(layout: Layout) -> list[StageLog]:
    """Every stage of the run under every name, in order."""
    directories = sorted((layout.root / "commits").glob("*/*/"))
    return [StageLog(layout, path.parent.name, path.name) for path in directories]
