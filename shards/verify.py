"""Is everything on disk what was committed? Three levels, each with all of the one before.

    quick   records and seals are whole, every shard has one, every file its size, none is extra
    full    every byte: the sha256 of every file on record
    deep    the contents agree: tars, frames and index hold the same clips, and each clip once

`repair` moves damaged records, with the files that they name, to `damaged/`: the next run makes
them again, to the same bytes. `gc` removes what no record names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Any, Literal

from configs.errors import AudiolexError, IntegrityError
from shards import contents
from shards import plan as plans
from shards.atomic import make_directory, sha256_file, sync_directory
from shards.commit import RECIPE_NAME, CommitRecord, StageLog, fingerprint, stage_logs
from shards.layout import Layout
from shards.plan import Plan
from shards.seal import check_bytes, check_size, read_seal

Level = Literal["quick", "full", "deep"]
DATA_DIRECTORIES = ("audio", "frames.zarr", "index", "tokens", "codebooks", "seals", "commits")


@dataclass(frozen=True)
class Fault:
    """Something that is not as committed; `remove` is what a repair moves out of the way, so that
    the next run makes it again (nothing: it needs a person)."""

    path: str
    what: str
    remove: tuple[Path, ...] = ()


@dataclass
class Findings:
    """What a verification saw."""

    level: Level
    records: int = 0
    files: int = 0
    bytes: int = 0
    faults: list[Fault] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)  # files that no record names

    def to_json(self) -> dict[str, Any]:
        faults = [{"path": fault.path, "what": fault.what} for fault in self.faults]
        return {
            "level": self.level,
            "ok": not faults,
            "records": self.records,
            "files": self.files,
            "bytes": self.bytes,
            "faults": faults,
            "extra": self.extra,
        }


@dataclass(frozen=True)
class _Stage:
    """A stage's log with its records that are whole."""

    log: StageLog
    records: dict[int, CommitRecord]


def verify(layout: Layout, level: Level) -> Findings:
    """Compare a run with its records. Never raises for damage: that is what it finds."""
    findings = Findings(level)
    stages = [_read_stage(log, findings) for log in stage_logs(layout)]
    plan = _check_plan(layout, findings)
    _check_recipes(stages, plan, findings)
    if plan is not None:
        _check_coverage(stages, plan, findings)
    named = _check_files(layout, stages, level, findings)
    named |= _check_seals(layout, level, findings)
    findings.extra = [str(path.relative_to(layout.root)) for path in unnamed(layout, named)]
    if level == "deep" and plan is not None and not findings.faults:
        for stage in stages:
            for record in stage.records.values():
                _note(findings, stage.log, record, contents.check(layout, plan, record))
        findings.faults += _doubled(layout, plan)
    return findings


def repair(layout: Layout, findings: Findings) -> int:
    """Move what the faults name for it to `layout.damaged`; returns how many faults stay. Hold the
    run's lock. Nothing is deleted: the source may no longer be there to make it again."""
    for path in {path for fault in findings.faults for path in fault.remove}:
        if path.exists():
            final = _free(layout.damaged / path.relative_to(layout.root))
            make_directory(final.parent)
            path.rename(final)
            sync_directory(final.parent)
            sync_directory(path.parent)
    return sum(not fault.remove for fault in findings.faults)


def _free(path: Path) -> Path:
    """The path, or one with a number where an earlier repair has put something."""
    others = (path.with_name(f"{path.name}.{number}") for number in count(1))
    return next(place for place in chain([path], others) if not place.exists())


def unnamed(layout: Layout, named: Iterable[Path]) -> list[Path]:
    """Files in the data directories that no record and no seal names, sorted."""
    known = set(named)
    logs = {log.directory for log in stage_logs(layout)}
    unfinished = {
        layout.codebook_work(log.name)
        for log in stage_logs(layout)
        if log.stage == "codebook" and not log.committed()
    }
    found = []
    places = [*((layout.root / name).rglob("*") for name in DATA_DIRECTORIES)]
    for paths in [*places, layout.root.glob("statistics-*.json")]:
        for path in sorted(paths):
            is_ours = path in known or path.parent in logs or path.parent in unfinished
            if path.is_file() and not is_ours:
                found.append(path)
    return found


def _read_stage(log: StageLog, findings: Findings) -> _Stage:
    records = {}
    for shard in sorted(log.committed()):
        path = log.path(shard)
        try:
            record = log.record(shard)
        except IntegrityError:
            record = None
        if record is None:
            what = "is no commit record, or not this shard's"
            findings.faults.append(_fault(log.layout, path, what, (path,)))
            continue
        records[shard] = record
        findings.records += 1
    return _Stage(log, records)


def _check_plan(layout: Layout, findings: Findings) -> Plan | None:
    try:
        plan = plans.load(layout)
    except (AudiolexError, OSError, KeyError, TypeError) as error:
        what = f"cannot be read: {type(error).__name__}"
        findings.faults.append(_fault(layout, layout.plan_json, what, _plan_files(layout)))
        return None
    findings.files += 2
    if not layout.plan_table.exists() or sha256_file(layout.plan_table) != plan.table_sha256:
        what = "is not the table that plan.json names"
        findings.faults.append(_fault(layout, layout.plan_table, what, (layout.plan_table,)))
        return None
    return plan


def _check_recipes(stages: Sequence[_Stage], plan: Plan | None, findings: Findings) -> None:
    """Records carry the fingerprint of their recipe; the shard stage's names the plan's."""
    for stage in stages:
        if not stage.records:  # killed before its first record: nothing is bound yet
            continue
        path = stage.log.directory / RECIPE_NAME
        recipe = stage.log.recipe()
        stamps = {record.fingerprint for record in stage.records.values()}
        if recipe is None or not stamps <= {fingerprint(recipe)}:
            what = "is not the recipe that the records were made with"
            findings.faults.append(_fault(stage.log.layout, path, what, (path,)))
        elif (
            plan is not None and stamps and recipe.get("plan", plan.fingerprint) != plan.fingerprint
        ):
            layout = stage.log.layout
            what = "is not the plan that the shards were made from"
            findings.faults.append(_fault(layout, layout.plan_json, what, _plan_files(layout)))


def _check_coverage(stages: Sequence[_Stage], plan: Plan, findings: Findings) -> None:
    """No record is of a shard beyond the plan. A missing one is no damage: the job is not done."""
    for stage in stages:
        if stage.log.stage in ("shard", "tokenize"):
            for shard in stage.records:
                if shard >= plan.num_shards:
                    path = stage.log.path(shard)
                    what = f"the plan has {plan.num_shards} shards"
                    findings.faults.append(_fault(stage.log.layout, path, what, (path,)))


def _check_files(
    layout: Layout, stages: Sequence[_Stage], level: Level, findings: Findings
) -> set[Path]:
    check = check_size if level == "quick" else check_bytes
    named = set()
    for stage in stages:
        for record in stage.records.values():
            for file in record.files:
                named.add(layout.root / file.path)
                findings.files += 1
                findings.bytes += file.bytes
                try:
                    check(layout.root, file)
                except IntegrityError as error:
                    what = str(error).removeprefix(f"{layout.root / file.path} ").split(";")[0]
                    _note(findings, stage.log, record, [(layout.root / file.path, what)])
    return named


def _check_seals(layout: Layout, level: Level, findings: Findings) -> set[Path]:
    """Seals are whole, and name records and files that are there. Returns the files they name."""
    check = check_size if level == "quick" else check_bytes
    named = set()
    for path in sorted(layout.seals.glob("*")):
        named.add(path)
        try:
            seal = read_seal(layout, path)
            _ = seal.records
            for file in seal.shared.values():
                named.add(layout.root / file.path)
                findings.files += 1
                check(layout.root, file)
        except IntegrityError as error:
            what = str(error).split(";")[0]
            findings.faults.append(_fault(layout, path, what, (path,)))
    return named


def _note(
    findings: Findings,
    log: StageLog,
    record: CommitRecord,
    faults: Iterable[tuple[Path, str]],
) -> None:
    """Faults of a record's files: the record goes with all that it names."""
    layout = log.layout
    remove = (log.path(record.shard), *(layout.root / file.path for file in record.files))
    for path, what in faults:
        where = f"{log.stage} {log.name}, shard {record.shard}"
        findings.faults.append(_fault(layout, path, f"{what} ({where})", remove))


def _doubled(layout: Layout, plan: Plan) -> Iterator[Fault]:
    ids = plan.column("id")
    if len(ids.unique()) != len(ids):
        yield _fault(layout, layout.plan_table, "lists a clip twice", ())


def _fault(layout: Layout, path: Path, what: str, remove: tuple[Path, ...]) -> Fault:
    return Fault(path.relative_to(layout.root).as_posix(), what, remove)


def _plan_files(layout: Layout) -> tuple[Path, ...]:
    """The plan can be made again from its source; the shards' recipe tells whether it is equal."""
    return layout.plan_json, layout.plan_table
