"""metrics.jsonl: what a training logged, one JSON line a record, each with its step.

A line that a kill cut short is left out; a resumed training drops what the killed one logged
after its checkpoint. No weights hang on it: a power loss may take its end, but not a record that
lasts, on disk before the step is saved. A board shows the same records elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.atomic import sync_directory, sync_file, write_whole
from shards.events import read_lines
from train.board import Board

Record = dict[str, Any]

TIMES = {"seconds", "waited_s", "read_s", "collate_s"}  # what differs from run to run


@dataclass(frozen=True)
class Journal:
    """The log of one training; `partial` is where it is written anew before it appears."""

    path: Path
    partial: Path
    board: Board | None = None

    def append(self, record: Record, *, lasts: bool = False) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if lasts:
            sync_file(self.path)
            sync_directory(self.path.parent)
        if self.board is not None:
            self.board.append(record)

    def read(self) -> list[Record]:
        """All records, in the order in which they were logged."""
        return [line for line in read_lines(self.path) if isinstance(line.get("step"), int)]

    def keep_until(self, step: int, validated: Collection[int]) -> None:
        """Drop the records of later steps, and those of validations that count as not done."""
        kept = [
            record
            for record in self.read()
            if record["step"] <= step and ("valid_map" not in record or record["step"] in validated)
        ]
        text = "".join(json.dumps(record) + "\n" for record in kept)
        write_whole(self.partial, self.path, text.encode())
        if self.board is not None:
            self.board.begin(kept)
