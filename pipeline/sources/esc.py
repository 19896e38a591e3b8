"""ESC-50 as published (`meta/esc50.csv`, `audio/`), and ESC-10 folders with an `esc10.csv`.

One label a clip and five official folds, which no other cut should replace: clips of one
recording stay in one fold.
"""

from __future__ import annotations

import csv
from pathlib import Path

from configs.errors import InputError
from configs.sources import EscSource
from shards.plan import Catalogue, ClassName, clip_table

HOW_TO_GET_IT = (
    "ESC-50 (600 MB; ESC-10 is its part marked esc10) is published as the GitHub repository "
    "karolpiczak/ESC-50: unpack it and set source.root to its directory "
    "(and source.only_esc10=true for ESC-10)"
)


LISTS = {"meta/esc50.csv": "audio/", "esc10.csv": ""}  # and where its names start from


def lists(source: EscSource) -> dict[str, Path]:
    """The list, whichever of the two the root holds."""
    found = _list(source.root)
    return {"list": found[0] if found else Path(source.root, "meta/esc50.csv")}


def read(source: EscSource) -> Catalogue:
    """All clips of the list, with their folds; classes in the order of their target numbers."""
    found = _list(source.root)
    if found is None:
        raise InputError(
            f"source.root: {source.root} holds neither {' nor '.join(LISTS)}. {HOW_TO_GET_IT}"
        )
    path, audio = found
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no CSV text: {error}") from None
    if source.only_esc10 and path.name != "esc10.csv":
        rows = [row for row in rows if row.get("esc10") == "True"]
        if not rows:
            raise InputError(f"source.only_esc10: no row of {path} has esc10 True")
    try:
        return _catalogue(rows, audio)
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{path}: needs filename,fold,target,category in every row: {error!r}"
        ) from None


def _catalogue(rows: list[dict[str, str]], audio: str) -> Catalogue:
    targets = sorted({(int(row["target"]), row["category"]) for row in rows})
    index_of = {target: index for index, (target, _) in enumerate(targets)}
    columns = {
        "id": [Path(row["filename"]).stem for row in rows],
        "path": [f"{audio}{row['filename']}" for row in rows],
        "labels": [[index_of[int(row["target"])]] for row in rows],
        "set": ["esc"] * len(rows),
        "fold": [int(row["fold"]) for row in rows],
        "group": [_recording(row["filename"]) for row in rows],
    }
    classes = tuple(ClassName(str(target), name) for target, name in targets)
    return Catalogue(clip_table(len(rows), columns), classes, "multiclass")


def _recording(filename: str) -> str | None:
    """What a clip was cut from: takes of one recording must not both train and validate. Names
    are fold-recording-take-target, as 1-100032-A-0.wav; None for any other."""
    parts = Path(filename).stem.split("-")
    return "-".join(parts[:2]) if len(parts) > 2 else None


def _list(root: str) -> tuple[Path, str] | None:
    """Whichever list the root holds, and the directory that its names start from."""
    there = ((Path(root, name), audio) for name, audio in LISTS.items())
    return next(((path, audio) for path, audio in there if path.is_file()), None)
