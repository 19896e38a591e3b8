"""Sources: where clips and labels come from. One module a kind, all giving a Catalogue."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from configs.errors import InputError
from configs.schema import Source
from pipeline.sources import audioset, esc
from shards.plan import Catalogue

READERS: dict[str, Callable[[Any], Catalogue]] = {
    "audioset": audioset.read,
    "esc": esc.read,
}


def read_source(source: Source) -> Catalogue:
    """All clips, labels and classes of a source; raises InputError where a list is at fault."""
    return READERS[source.kind](source)


def require_root(source: Source) -> None:
    """Raises InputError if the audio directory itself is not there: not one clip would decode."""
    if not Path(source.root).is_dir():
        raise InputError(
            f"source.root: {source.root} is no directory; set it to where the audio is"
        )
