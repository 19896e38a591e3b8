"""`python -m shards VERB RUN`: is a run whole, what of it is no longer needed, and its examples in
formats that others read."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from configs.cli import RunVerb, main
from configs.console import counted, say
from configs.errors import InputError
from configs.signals import leave

if TYPE_CHECKING:
    from shards.layout import Layout

SHOWN_FAULTS = 20


def verify(run: Path, args: argparse.Namespace) -> int:
    from shards import verify as verifying
    from shards.layout import Layout
    from shards.stream.remote import where_shards_are, without_secrets

    layout = Layout(run)
    if args.repair and (url := where_shards_are(layout).remote):
        raise InputError(
            f"{run}: what is not here may lie at data.remote={without_secrets(url)}, and would be "
            "taken for lost: repair the copy that has it, or say data.remote=null to `fit` first"
        )
    with _held(layout, "verify") if args.repair else nullcontext():
        findings = verifying.verify(layout, args.level)
        left = verifying.repair(layout, findings) if args.repair else len(findings.faults)
    for fault in findings.faults[:SHOWN_FAULTS]:
        say(f"{fault.path}: {fault.what}")
    if findings.faults[SHOWN_FAULTS:]:
        say(f"... and {len(findings.faults) - SHOWN_FAULTS} more")
    if args.repair and findings.faults:
        say(f"moved what is damaged to {layout.damaged}; now run the pipeline again")
    if left and args.repair:
        say(f"{left} faults cannot be repaired: they need a person")
    say(
        f"{run}: {findings.records} records, {findings.files} files, "
        f"{findings.bytes / 1e6:.1f} MB, {len(findings.faults)} faults, {len(findings.extra)} "
        f"files that no record names ({args.level})"
    )
    if args.json:
        say(json.dumps(findings.to_json()))
    return 1 if left else 0


def gc(run: Path, args: argparse.Namespace) -> int:
    from shards import gc as collecting
    from shards.layout import Layout

    layout = Layout(run)
    with _held(layout, "gc"):
        found = collecting.find_garbage(layout) if args.dry_run else collecting.collect(layout)
    done = "would be removed" if args.dry_run else "removed"
    say(f"{run}: {len(found.paths)} files, {found.bytes / 1e6:.1f} MB {done}")
    return 0


def export(run: Path, args: argparse.Namespace) -> int:
    from shards import export as exporting
    from shards.layout import Layout

    tokens = exporting.open_token_set(Layout(run), args.name)
    done = exporting.export(tokens, args.out, args.format)
    made = f"{done.num_made} of them new" if done.num_made else "nothing to do"
    say(
        f"{args.out}: {done.num_clips} clips in {counted(done.num_files, 'file')}, "
        f"{done.bytes / 1e6:.1f} MB ({args.format}), {made}"
    )
    return 0


def audit(run: Path, args: argparse.Namespace) -> int:
    from shards.audit import open_audit, say_epochs, say_step
    from shards.layout import Layout

    found = open_audit(Layout(run), args.model)
    if args.step is None:
        return say_epochs(found)
    say_step(found, args.step)
    return 0


@contextmanager
def _held(layout: Layout, verb: str) -> Iterator[None]:
    """As drivers do it: one at a time, and those who look at the run see who, and that it ended."""
    from shards.events import timed
    from shards.lock import hold

    with hold(layout.lock), timed(layout, verb):
        yield


def _verify_options(parser: argparse.ArgumentParser) -> None:
    levels = ("quick", "full", "deep")
    parser.add_argument("--level", choices=levels, default="full", help="sizes; bytes; contents")
    parser.add_argument("--repair", action="store_true", help="move away what the next run remakes")
    parser.add_argument("--json", action="store_true", help="end in one JSON line")


def _gc_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="only say what would go")


def _export_options(parser: argparse.ArgumentParser) -> None:
    formats = ("webdataset", "parquet")
    parser.add_argument(
        "out", type=Path, metavar="OUT", help="a new or empty directory, or an export"
    )
    parser.add_argument("--format", choices=formats, default="webdataset", help="of its files")
    parser.add_argument("--name", default="default", help="of the tokens, as their codebook's")


def _audit_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--step", type=int, help="which clips it saw; without: all epochs, counted")
    parser.add_argument("--model", help="the name under models, where there are several")


VERBS = {
    "verify": RunVerb(
        verify, "compare a run with its records, down to every byte", _verify_options
    ),
    "gc": RunVerb(gc, "remove files that no record names", _gc_options),
    "export": RunVerb(
        export,
        "write tokens as examples that webdataset, datasets or Parquet read",
        _export_options,
    ),
    "audit": RunVerb(
        audit, "which clips a step of a training saw, and how often each was seen", _audit_options
    ),
}

if __name__ == "__main__":
    leave(main("shards", VERBS))
