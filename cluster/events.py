"""What happens to tasks and workers, by the names that `events.jsonl` has for it."""

from __future__ import annotations

from typing import Any, Literal, Protocol

EventName = Literal[
    "start",  # an attempt at a task, on a worker
    "done",
    "killed",  # the worker of an attempt that had begun
    "retry",  # another attempt will come
    "refused",  # a worker
    "isolated",  # what in a task kills its worker
    "full disk",
    "failed",  # a task, for good
]
NOTABLE: frozenset[EventName] = frozenset(
    {"killed", "retry", "refused", "isolated", "full disk", "failed"}
)


class Note(Protocol):
    """Is told what happens, one event a call; also from other threads."""

    def __call__(self, event: EventName, **details: Any) -> None: ...


def no_note(event: EventName, **details: Any) -> None:
    """Says it to nobody."""
