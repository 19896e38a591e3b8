"""What happened in a run and how long it took: one JSON line an event, appended."""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any

from configs import STARTED_S
from configs.errors import Preempted
from shards.layout import Layout
from shards.lock import holder

_ONE_AT_A_TIME = Lock()  # workers are heard in threads of their own


@contextmanager
def timed(layout: Layout, verb: str) -> Iterator[None]:
    """Append whether a verb ended well (or with what error), its peak memory, and the wall seconds
    since its process began: what a person waits for."""
    try:
        yield
    except BaseException as error:
        with suppress(OSError):  # a full disk, or no run at all: the first error is the one to show
            _append(layout, verb, done=False, **_ending(error))
        raise
    _append(layout, verb, done=True)


def _ending(error: BaseException) -> dict[str, Any]:
    """The exit code of a command that ends in an error, and the error on one line."""
    code = Preempted.exit_code if isinstance(error, KeyboardInterrupt) else 1
    lines = (line.strip() for line in str(error).splitlines())
    return {"exit_code": getattr(error, "exit_code", code), "error": "; ".join(filter(None, lines))}


def _append(layout: Layout, verb: str, **ending: Any) -> None:
    seconds = round(time.monotonic() - STARTED_S, 3)
    who = holder(layout.lock)
    held = {"holds_since": who.since_s} if who and who.is_this_process else {}
    append(layout, verb=verb, **ending, seconds=seconds, peak_mib=peak_mib(), **held)


def peak_mib() -> int:
    """The peak resident memory of this process, or of the largest of its children."""
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(who).ru_maxrss for who in whose) // 1024


def append(layout: Layout, **event: Any) -> None:
    """Append one event; `at` is when it happened, in seconds since 1970."""
    line = json.dumps({"at": round(time.time(), 3), **event})
    with _ONE_AT_A_TIME, layout.events.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # a kill cut the last line short: this one must not join it
                file.write(b"\n")
        file.write(line.encode() + b"\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines; one that a kill cut short is left out."""
    return _objects(path.read_bytes()) if path.exists() else []


def _objects(data: bytes) -> list[dict[str, Any]]:
    found = []
    for line in data.decode("utf-8", errors="replace").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return [tree for tree in found if isinstance(tree, dict)]


class Tail:
    """Reads what was appended to a file of JSON lines since it was last asked."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0

    def new(self) -> list[dict[str, Any]]:
        """The objects of whole lines; a line in the making comes later, one that a kill cut short
        not at all. A file that was made anew is read from its beginning."""
        try:
            with self._path.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._offset:
                    self._offset = 0
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return _objects(whole)


def total_seconds(layout: Layout) -> float:
    """Wall seconds of all verbs of a run so far, resumed ones included."""
    return float(sum(event.get("seconds", 0.0) for event in read_lines(layout.events)))
