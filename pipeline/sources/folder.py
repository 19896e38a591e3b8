"""A directory a class: `root/dog/1.wav`, or `root/train/dog/1.wav` where the sets are split."""

from __future__ import annotations

import re
from pathlib import Path

from configs.errors import InputError
from configs.sources import FolderSource
from pipeline import storage
from shards.plan import Catalogue, ClassName, clip_table
from shards.splits import SPLITS


def lists(_: FolderSource) -> dict[str, Path]:
    """The directory is the list."""
    return {}


def read(source: FolderSource) -> Catalogue:
    """One clip a file; its class is the directory above it (below the split, if there is one).

    Raises InputError where there are no files in directories.
    """
    storage.require(source.root)
    found = storage.files(source.root)
    paths = [path for path in found if storage.is_audio_name(path) and "/" in path]
    if not paths:
        raise InputError(
            f"source.root: {source.root} holds no audio files in directories; a directory a class "
            "is expected, as dog/1.wav"
        )
    declared = [path.split("/")[0] for path in paths]
    is_split = _are_splits(source.root, set(declared))
    names = [_class_of(source.root, path, is_split) for path in paths]
    classes = sorted(set(names))
    index_of = {name: index for index, name in enumerate(classes)}
    table = clip_table(
        len(paths),
        {
            "id": paths,
            "path": paths,
            "labels": [[index_of[name]] for name in names],
            "set": ["folder"] * len(paths),
            "split": declared if is_split else ["train"] * len(paths),
            "group": [_group(path, source.group_pattern) for path in paths],
        },
    )
    left_out = {"no audio by their suffix, or in no directory": len(found) - len(paths)}
    names_of = tuple(ClassName(name, name) for name in classes)
    return Catalogue(table, names_of, "multiclass", {k: n for k, n in left_out.items() if n})


def _are_splits(root: str, tops: set[str]) -> bool:
    """Whether the uppermost directories are splits. Raises InputError where only some are: they
    would become classes, and all clips would train."""
    known = tops & set(SPLITS)
    if known and known != tops:
        raise InputError(
            f"source.root: {root} holds {', '.join(sorted(known))} beside "
            f"{', '.join(sorted(tops - known)[:5])}: name all of them {', '.join(SPLITS)}, or none"
        )
    return bool(known)


def _class_of(root: str, path: str, is_split: bool) -> str:
    parts = path.split("/")
    if is_split and len(parts) < 3:
        raise InputError(f"source.root: {root}/{path} lies in a split, but in no class")
    return parts[1 if is_split else 0]


def _group(path: str, pattern: str | None) -> str | None:
    if pattern is None:
        return None
    found = re.search(pattern, path)
    return found.group(1) if found is not None and found.re.groups else None
