"""What a worker must share with the driver: code, libraries, and the run before its eyes."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import soundfile

from pipeline.storage import UNSEEN

LIBRARIES = ("av", "soxr", "scipy", "zarr", "numcodecs", "pyarrow")  # that decide bytes
ALSO_COMPARED = ("numpy", "dask", "distributed")
PACKAGES = ("cluster", "configs", "pipeline", "shards")
IMPORTED_LATE = ("pipeline.codebook", "pipeline.shard_task", "pipeline.tokenize_stage")
SHOWN_CHARS = 12
Sight = Callable[[], Mapping[str, str]]


def library_versions() -> dict[str, str]:
    """The libraries that decide the bytes of a shard."""
    return {
        "libsndfile": soundfile.__libsndfile_version__,
        **{name: version(name) for name in LIBRARIES},
    }


def stamp(recipe: Path, sight: Sight = dict) -> dict[str, str]:
    """What must be equal on worker and driver; `recipe` is a stage's, in the run, and `sight` looks
    at what else its tasks must see."""
    return {**_of_this_process(), str(recipe): _hash_of(recipe), **sight()}


def _hash_of(recipe: Path) -> str:
    try:
        return hashlib.sha256(recipe.read_bytes()).hexdigest()[:SHOWN_CHARS]
    except OSError:
        return UNSEEN


@cache
def _of_this_process() -> dict[str, str]:
    """Read once, near the time when the code was imported: a process that outlives a change of
    its files still runs the old ones."""
    for name in IMPORTED_LATE:  # what is not imported yet could come from newer files
        import_module(name)
    also = {name: version(name) for name in ALSO_COMPARED}
    return {"Python": platform.python_version(), "code": _code(), **library_versions(), **also}


def _code() -> str:
    """A hash of the source of everything that runs on workers."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for path in sorted(path for name in PACKAGES for path in (root / name).rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:SHOWN_CHARS]
