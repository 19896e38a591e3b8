"""The verb `export`: a sealed token set as files of examples that others read, one a shard.

    OUT/tokens-000123.tar    (or .parquet) the examples of a shard; none for a shard without clips
    OUT/manifest.json        written last: of what set, which files with bytes and sha256
    OUT/unfinished.jsonl     until then: of what set, and a line for each file that is whole
    OUT/partial/             files in the making

A line is written once its file stands, so what a killed export left is either on a line or made
again, to the same bytes. A shard is opened, written and let go: memory does not grow with the set.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np

from configs.console import Progress
from configs.errors import InputError, IntegrityError
from shards import plan as plans
from shards.atomic import Attempt, sha256_file, sweep
from shards.codebook import open_codebook
from shards.commit import REPAIR, CommitRecord
from shards.export_formats import FORMATS, FROM_INDEX, Card, Part, part_of
from shards.export_place import Place, Tree
from shards.index import decoded, open_shards, read_shard_index
from shards.layout import Layout
from shards.lock import hold
from shards.seal import Seal, open_seal
from shards.stream.files import Files
from shards.stream.remote import files_of, where_shards_are
from shards.stream.tokens import TokenSource
from shards.tokens import STAGE, TokenIndex, read_token_index

VERSION = 1


@dataclass(frozen=True)
class TokenSet:
    """A sealed token set and the index rows of its clips, a shard at a time."""

    seal: Seal
    index: TokenIndex
    files: Files
    card: Card
    indexed: Mapping[int, CommitRecord]  # the shards of the frames, by number

    @cached_property
    def shards(self) -> dict[int, int]:
        """The number of each shard that has clips, and its place in the index."""
        full = set(self.index.shard.tolist())
        records = enumerate(self.seal.records)
        return {record.shard: place for place, record in records if place in full}

    def parts(self, shard: int, place: int) -> Iterator[Part]:
        """The clips of a shard, block by block; raises IntegrityError where its tokens are damaged,
        or are not of the clips in the index."""
        layout, only = self.seal.layout, self.index.only(place)
        source = TokenSource(only, self.files, self.seal.fingerprint)
        columns = [*FROM_INDEX, "targets", "status"]
        rows = decoded(read_shard_index(layout, self.indexed[shard], columns))
        if rows.column("key").to_pylist() != source.keys(source.all_rows):
            raise IntegrityError(
                f"{layout.root / only.files[0].path}: its tokens are not of the clips in the "
                f"index of shard {shard}; {REPAIR}"
            )
        for start, stop in pairwise(only.first_row.tolist()):
            chunk = source.read(np.arange(start, stop))
            yield part_of(chunk, rows.slice(start, stop - start), self.card)


def open_token_set(layout: Layout, name: str) -> TokenSet:
    """Raises NotMadeYet before `tokenize` has finished, InputError for a name that the run does
    not have, IntegrityError where what it reads changed."""
    _refuse_unknown(layout, name)
    seal = open_seal(layout, STAGE, name)
    index = read_token_index(seal.shared_file("index"))
    codebook, fingerprint = open_codebook(layout, name)
    plan = plans.load_bound(layout)
    card = Card(
        tokens=name,
        fingerprint=seal.fingerprint,
        codebook=fingerprint,
        k=codebook.k,
        num_codebooks=index.num_codebooks,
        task=plan.task,
        classes=plan.classes,
    )
    records = open_shards(layout).records
    files = files_of(layout.root, where_shards_are(layout))
    return TokenSet(seal, index, files, card, {record.shard: record for record in records})


def _refuse_unknown(layout: Layout, name: str) -> None:
    known = sorted(path.name for path in (layout.root / "commits" / STAGE).glob("*/"))
    if known and name not in known:
        raise InputError(f"{layout.root} has no tokens {name}: say --name {' or '.join(known)}")


@dataclass(frozen=True)
class Exported:
    """How many files an export made, of how many, and their size."""

    num_made: int
    num_files: int
    num_clips: int
    bytes: int


def export(tokens: TokenSet, out: Path, format_name: str) -> Exported:
    """Write what is not written yet, then the manifest.

    Raises InputError where `out` holds other things, RecipeMismatch where it holds the export of
    another set or in another format, RunLocked while another export works there.
    """
    recipe = {"version": VERSION, "format": format_name, **tokens.card.to_json()}
    place = Place(out, recipe)
    place.check()
    with hold(place.partial / "lock"):
        place.check()  # again: another export may have ended in between
        sweep(place.partial)
        whole = place.begin()
        missing = [shard for shard in tokens.shards if place.name(shard) not in whole]
        with Progress(f"export {format_name}", len(tokens.shards), "clips", len(whole)) as progress:
            for shard in missing:
                entry = _write(tokens, shard, place)
                whole[entry["path"]] = entry
                progress.advance(entry["clips"])
        files = [whole[place.name(shard)] for shard in tokens.shards]
        place.finish(files)
    totals = (sum(file[key] for file in files) for key in ("clips", "bytes"))
    return Exported(len(missing), len(files), *totals)


def _write(tokens: TokenSet, shard: int, place: Place) -> Tree:
    """Make one file; returns its line."""
    name = place.name(shard)
    index_place = tokens.shards[shard]
    with Attempt(place.partial, name) as attempt:
        path = attempt.path(name)
        FORMATS[place.format_name].write(path, tokens.parts(shard, index_place), tokens.card)
        entry = {
            "path": name,
            "clips": tokens.index.only(index_place).num_rows,
            "bytes": path.stat().st_size,
            "sha256": sha256_file(path),
        }
        attempt.publish(name, place.out / name)
    place.note(entry)
    return entry
