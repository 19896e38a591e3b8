"""SIGTERM, SIGUSR1 and Ctrl-C end a command with the exit code of what was preempted, whatever it
is doing.

They raise where the command stands, so that what it has begun is cleaned up. There are three kinds
of places where an exception from nowhere does not end it:

* While a module is imported: C code takes any exception for a missing module and goes on (as
  `xml.etree.ElementTree` does), and the signal is lost. Nothing is begun while a command imports
  its own work, so that it leaves at once; in later imports, the signal comes again until they are
  over.
* In a function that pydantic calls, which makes an error of its own of any exception, or none, and
  in a `__del__`, whose exceptions Python prints and drops: here, too, the signal comes again.
* In a string that is executed, as dataclasses are built: a KeyboardInterrupt that comes out of one
  has CPython end by SIGINT in the end, whatever exit code was asked for. It looks for that very
  class, hence `Interrupted`.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from types import FrameType
from typing import NoReturn

from configs.errors import Preempted

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # batch systems warn by the last two
GOES_ON = "the same command goes on from what is committed"
SOON_S = 0.02
IMPORTING = "<frozen importlib"  # the file of functions that import
BEGINNING = ("__main__", "configs.cli")  # the modules that import the work of a command


class Interrupted(KeyboardInterrupt):
    """A stop signal; as Ctrl-C, so that no `except Exception` takes it for a fault."""


def stop_on_signals() -> None:
    """From here on they raise Interrupted in the main thread, as soon as it can be heard."""
    _handle(_stop)


def leave_on_signals(code: int) -> None:
    """From here on they end the process where it stands, for what leaves nothing undone."""
    _handle(lambda *_: os._exit(code))


def leave(code: int) -> NoReturn:
    """End the process with an exit code, whatever signals still come: another one would kill it
    while the interpreter ends, in place of the 75 that the first one asked for."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    gc.freeze()  # or the interpreter looks through all of torch once more, for 0.7 s
    sys.exit(code)


def _handle(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in STOP_SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as a shell's & does with Ctrl-C
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    frames = [*_outwards(frame)]
    importers = [  # whose import is under way, the outermost last
        outer
        for inner, outer in pairwise(frames)
        if _is_importing(inner) and not _is_importing(outer)
    ]
    if importers and _module_of(importers[-1]) in BEGINNING:
        _leave_at_once()
    if importers or any(map(_is_deaf, frames)):
        _come_again(number)
    else:
        raise Interrupted


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_importing(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(IMPORTING)


def _is_deaf(frame: FrameType) -> bool:
    return frame.f_code.co_name == "__del__" or _module_of(frame).startswith("pydantic.")


def _module_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__"))


def _come_again(number: int) -> None:
    """Soon, to whom it is for by then."""
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(number))
    signal.setitimer(signal.ITIMER_REAL, SOON_S)


def _leave_at_once() -> NoReturn:
    os.write(2, f"stopped: {GOES_ON}\n".encode())
    os._exit(Preempted.exit_code)
