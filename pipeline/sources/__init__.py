"""Sources: where clips and labels come from. One module a kind; each has `read`, which gives a
Catalogue, and `lists`, the files that decide what it gives."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from configs.sources import Source
from pipeline.sources import audioset, esc, folder, table
from shards.plan import Catalogue

KINDS: dict[str, ModuleType] = {
    "audioset": audioset,
    "esc": esc,
    "folder": folder,
    "table": table,
}


def read_source(source: Source) -> Catalogue:
    """All clips, labels and classes of a source; raises InputError where a list is at fault."""
    catalogue: Catalogue = KINDS[source.kind].read(source)
    return catalogue


def source_lists(source: Source) -> dict[str, Path]:
    """The lists that a source is read from, by their config keys."""
    lists: dict[str, Path] = KINDS[source.kind].lists(source)
    return lists
