"""Every error that can end a command, in one tree, with the exit code it ends in.

    AudiolexError               1   the base: what, which, what to do
    ├── ConfigError             2   the config or an override is wrong; lists every fault
    ├── InputError              2   a path, list or file that the job was given
    │   ├── RecipeMismatch      2   the run was made with other settings; lists the keys
    │   └── LostSight           2   what was there when the job began is not any more
    ├── NotMadeYet              2   an earlier stage has to run first
    ├── RunLocked               1   another driver is at work in this run
    ├── IntegrityError          1   bytes on disk are not those on record
    │   └── DifferentBytes      1   a second attempt at a shard gave other bytes
    ├── StoreFailed             1   a remote store gives no answer, or not in time
    ├── CacheFull               1   the cache of remote shards is at its bound, and all of it in use
    ├── StageFailed             1   some shards failed; the others are committed
    ├── DecoderLost             1   something else keeps killing the decoder
    ├── ClusterFailed           1   no worker came, or none that fits
    ├── TrainingFailed          1   no number for a loss, no memory, a rank or loader lost
    └── Preempted              75   stopped by a signal: run the same command again
        └── ClusterLost        75   the scheduler went away, or nothing moves any more

A bad clip is none of these: `pipeline.audio.refusal.ClipRefused` becomes a quarantine row, never
the end of a job. The tree lives below all packages because all of them raise from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = [
    "AudiolexError",
    "CacheFull",
    "ClusterFailed",
    "ClusterLost",
    "ConfigError",
    "DecoderLost",
    "DifferentBytes",
    "InputError",
    "IntegrityError",
    "LostSight",
    "NotMadeYet",
    "Preempted",
    "RecipeMismatch",
    "RunLocked",
    "StageFailed",
    "StoreFailed",
    "TrainingFailed",
]


def notes_of(error: BaseException) -> list[str]:
    """Where it happened, from the inside out: what `add_note` was told."""
    return list(getattr(error, "__notes__", []))


class AudiolexError(Exception):
    """Base of everything shown to a user without a traceback."""

    exit_code = 1


class ConfigError(AudiolexError):
    """One or more faults in a config; the message lists all of them, one a line."""

    exit_code = 2

    def __init__(self, where: str, faults: Sequence[str]) -> None:
        self.where, self.faults = where, tuple(faults)
        count = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        super().__init__("\n".join([f"{where}: {count}", *(f"  {fault}" for fault in self.faults)]))

    def __reduce__(self) -> tuple[Any, ...]:  # errors travel from workers
        return type(self), (self.where, self.faults), {"__notes__": notes_of(self)}


class InputError(AudiolexError):
    """Something the job was given is missing or malformed."""

    exit_code = 2


class RecipeMismatch(InputError):
    """What stands in the run was made with other settings than the ones asked for now."""

    def __init__(self, what: str, differences: Sequence[str], cure: str) -> None:
        self.parts = what, tuple(differences), cure
        lines = [f"{what} was made with other settings:", *(f"  {line}" for line in differences)]
        super().__init__("\n".join([*lines, cure]))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.parts, {"__notes__": notes_of(self)}


class LostSight(InputError):
    """Something that was there when the job began is not to be seen any more, here or on a worker:
    a disk that went away."""


class NotMadeYet(AudiolexError):
    """The stage that makes this verb's input has not finished."""

    exit_code = 2


class RunLocked(AudiolexError):
    """Another driver holds the run."""


class IntegrityError(AudiolexError):
    """A file on disk is not the file on record."""


class DifferentBytes(IntegrityError):
    """A second attempt at a committed shard gave other bytes: the task is not deterministic."""


class StoreFailed(AudiolexError):
    """A remote store was asked often enough and gave no whole answer."""


class CacheFull(AudiolexError):
    """A cache is at its bound, and all that it holds is in use."""


class StageFailed(AudiolexError):
    """Some tasks of a stage failed; what the others made is committed."""


class DecoderLost(AudiolexError):
    """The process that decodes was killed again and again, and not by its own limits."""


class ClusterFailed(AudiolexError):
    """The place where tasks should run cannot be had."""


class TrainingFailed(AudiolexError):
    """Training cannot go on; the last checkpoint is kept."""


class Preempted(AudiolexError):
    """A signal asked the command to stop; what is committed is kept."""

    exit_code = 75


class ClusterLost(Preempted):
    """The scheduler went away, or nothing moves any more; what is committed is kept."""
