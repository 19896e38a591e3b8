"""`status --watch`: the state of a run again and again, while it is made somewhere else.

Only files are read, so that it works from any host that sees them. It ends by itself when all that
is being made is made, or when the work failed and nobody mends it, and on Ctrl-C; there is nothing
that it could leave undone.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event

from configs.errors import AudiolexError
from configs.schema import Config
from configs.signals import STOP_SIGNALS
from pipeline.displays import display
from pipeline.look import Lookout, Sight

REFRESH_S = 2.0
QUIET_S = 60.0  # for a driver that cannot be seen to begin the next stage, or a person a failed one


def run(config: Config) -> int:
    """Show the config's run until it is made, or until a signal says that it is enough; returns 1
    where it failed, and stays so."""
    with _signals() as is_enough, display() as show:
        lookout, patience = Lookout(config, is_enough.is_set), Patience()
        while True:
            sight, trouble = _look(lookout)
            if is_enough.is_set():
                return 0
            show(sight, trouble)
            if sight is not None and patience.ends(sight, time.monotonic()):
                return 1 if sight.fault else 0
            is_enough.wait(REFRESH_S)


def _look(lookout: Lookout) -> tuple[Sight | None, str]:
    """What is wrong now may be over at the next look: a file that vanished, or is being moved."""
    try:
        return lookout.look(), ""
    except (OSError, AudiolexError) as error:
        return None, str(error)


class Patience:
    """Knows when there is nothing more to wait for."""

    def __init__(self) -> None:
        self._quiet_since_s: float | None = None

    def ends(self, sight: Sight, now_s: float) -> bool:
        """Whether all that is begun is finished and nobody is there to begin more, or it failed and
        nobody has begun again."""
        if sight.state == "at work" or not (sight.is_finished or sight.fault):
            self._quiet_since_s = None
            return False
        if self._quiet_since_s is None:
            self._quiet_since_s = now_s
        is_sure = sight.state != "not seen" and not sight.fault
        return is_sure or now_s - self._quiet_since_s >= QUIET_S


@contextmanager
def _signals() -> Iterator[Event]:
    """Is set by what would end the process otherwise; never in the middle of a line."""
    enough = Event()
    numbers = [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, lambda *_: enough.set()) for number in numbers}
    try:
        yield enough
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
