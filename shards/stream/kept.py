"""Things that are made when they are asked for, and kept within a bound in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """What knows how much memory it takes, as an array does."""

    @property
    def nbytes(self) -> int: ...


Thing = TypeVar("Thing", bound=Sized)


class Kept(Generic[Thing]):
    """What `make` gives for a number. Those used least recently are forgotten first; what several
    threads want at the same time is made once. `make` may raise: then nothing is kept, and all
    who waited for it get the error.

    Args:
        make: may be called from several threads, for different numbers.
        max_bytes: that are kept at most; None: everything is.
    """

    def __init__(self, make: Callable[[int], Thing], max_bytes: int | None = None) -> None:
        self._make, self.max_bytes = make, max_bytes
        self.num_bytes = 0
        self._kept: OrderedDict[int, Thing] = OrderedDict()  # the one used last stands last
        self._making: dict[int, Future[Thing]] = {}
        self._lock = threading.Lock()

    def __getitem__(self, number: int) -> Thing:
        with self._lock:
            if number in self._kept:
                self._kept.move_to_end(number)
                return self._kept[number]
            making, is_mine = self._making.get(number), number not in self._making
            if making is None:
                making = self._making[number] = Future()
        if is_mine:
            self._fill(number, making)
        return making.result()

    def _fill(self, number: int, making: Future[Thing]) -> None:
        try:
            thing = self._make(number)
        except BaseException as error:  # of whatever kind: others wait for an answer
            with self._lock:
                del self._making[number]
            making.set_exception(error)
        else:
            with self._lock:
                self._keep(number, thing)
                del self._making[number]
            making.set_result(thing)

    def _keep(self, number: int, thing: Thing) -> None:
        size = thing.nbytes
        if self.max_bytes is not None:
            if size > self.max_bytes:
                return
            while self.num_bytes + size > self.max_bytes:
                self.num_bytes -= self._kept.popitem(last=False)[1].nbytes
        self._kept[number] = thing
        self.num_bytes += size
