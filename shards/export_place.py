"""The directory of an export: what stands in it, what is missing, and whether it is of this set."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import InputError, RecipeMismatch
from shards.atomic import sha256_file, write_whole
from shards.commit import canonical_json, differences
from shards.events import read_lines
from shards.export_formats import FORMATS

MANIFEST_NAME = "manifest.json"
UNFINISHED_NAME = "unfinished.jsonl"

Tree = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """The directory of an export, and what it has to hold."""

    out: Path
    recipe: Tree

    @property
    def partial(self) -> Path:
        return self.out / "partial"

    @property
    def manifest(self) -> Path:
        return self.out / MANIFEST_NAME

    @property
    def unfinished(self) -> Path:
        return self.out / UNFINISHED_NAME

    @property
    def format_name(self) -> str:
        name: str = self.recipe["format"]
        return name

    def name(self, shard: int) -> str:
        return f"tokens-{shard:06d}.{FORMATS[self.format_name].suffix}"

    def check(self) -> None:
        """Raises InputError or RecipeMismatch where something else stands here."""
        if self.out.exists() and not self.out.is_dir():
            raise InputError(f"{self.out} is a file: give a directory to export to")
        found = self._found()
        if found is None:
            names = {path.name for path in self.out.glob("*")} - {self.partial.name}
            if names:
                raise InputError(
                    f"{self.out} holds {min(names)} and other things that no export made: give a "
                    "new or an empty directory"
                )
        elif found[0] != self.recipe:
            cure = "Give another directory, or remove this one."
            raise RecipeMismatch(f"{self.out}", differences(found[0], self.recipe), cure)

    def begin(self) -> dict[str, Tree]:
        """The lines of files that are whole, by name. From here on until `finish`, no manifest
        says that all of them are."""
        found = self._found()
        lines = found[1] if found else []
        whole = [line for line in lines if _is_whole(self.out, line)]
        if not (self.manifest.exists() and len(whole) == len(lines)):
            data = b"".join(map(canonical_json, [self.recipe, *whole]))
            write_whole(self.partial, self.unfinished, data)
            self.manifest.unlink(missing_ok=True)
        return {line["path"]: line for line in whole}

    def note(self, entry: Tree) -> None:
        """A line for a file that stands under its name."""
        with self.unfinished.open("ab") as file:
            file.write(canonical_json(entry))
            file.flush()
            os.fsync(file.fileno())

    def finish(self, files: list[Tree]) -> None:
        """Write the manifest, and remove what was needed until then."""
        if not self.manifest.exists():
            tree = {**self.recipe, "files": files}
            text = json.dumps(tree, indent=1, sort_keys=True, ensure_ascii=False)
            write_whole(self.partial, self.manifest, text.encode() + b"\n")
        self.unfinished.unlink(missing_ok=True)
        shutil.rmtree(self.partial, ignore_errors=True)

    def _found(self) -> tuple[Tree, list[Tree]] | None:
        """Recipe and lines of what stands here; None where nothing can be read of them."""
        if self.manifest.exists():
            try:
                tree: Tree = json.loads(self.manifest.read_bytes())
                return tree, tree.pop("files")
            except (ValueError, KeyError, AttributeError):
                raise InputError(f"{self.manifest} is damaged: remove {self.out}") from None
        lines = read_lines(self.unfinished)
        return (lines[0], lines[1:]) if lines else None


def _is_whole(out: Path, line: Tree) -> bool:
    path = out / line["path"]
    is_there = path.is_file() and path.stat().st_size == line["bytes"]
    return is_there and sha256_file(path) == str(line["sha256"])
