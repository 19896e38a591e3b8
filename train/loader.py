"""Steps of a stream from loader processes: torch's DataLoader, which takes them in turn."""

from __future__ import annotations

import atexit
import os
import signal
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from threading import current_thread, main_thread
from weakref import finalize

from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from torch.utils.data._utils import signal_handling

from configs.errors import AudiolexError, TrainingFailed
from configs.processes import end_with
from configs.signals import STOP_SIGNALS
from shards.stream.schedule import Place
from shards.stream.stream import Step
from train.batches import Batch
from train.data import BatchStream

END_LIMIT_S = 1.0  # for a process whose pipe has ended

Loaded = Step[Batch] | AudiolexError | OSError


class _Steps(IterableDataset[Loaded]):
    """A worker's share of the steps from a place on; an error for a person comes as a value: torch
    would make a traceback of its message."""

    def __init__(self, stream: BatchStream, place: Place) -> None:
        self._stream, self._place = stream, place

    def __iter__(self) -> Iterator[Loaded]:
        worker = get_worker_info()
        assert worker is not None, "a dataset for loader workers only"
        try:
            yield from self._stream.steps(
                self._place, worker=worker.id, num_workers=worker.num_workers
            )
        except (AudiolexError, OSError) as error:
            yield error


class LoaderProcesses:
    """A stream whose steps are made by processes of their own; the same steps."""

    def __init__(self, stream: BatchStream, num_workers: int) -> None:
        self._stream, self._num_workers = stream, num_workers
        self.sampler = stream.sampler

    def steps(self, place: Place) -> Generator[Step[Batch], None, None]:
        """All steps from a place on, by processes that start at once; to be closed, or they stay as
        long as the thread that called.

        Raises whatever reading raises, and TrainingFailed where a worker was killed.
        """
        before = set(active_children())
        with _own_sigchld():
            loaded = iter(self._loader(place))
        end = partial(_end, set(active_children()) - before)
        atexit.register(end)  # the interpreter waits for processes that it cannot stop by a signal
        steps = self._steps(loaded, end)
        finalize(steps, end)  # closed before the first step it never reaches its `finally`
        return steps

    def _steps(
        self, loaded: Iterator[Loaded], end: partial[None]
    ) -> Generator[Step[Batch], None, None]:
        failure = ""
        try:
            while not failure:
                began_s = time.perf_counter()
                try:
                    found = next(loaded, None)
                except (RuntimeError, OSError, EOFError) as error:
                    failure = _killed(error, *end.args)
                    continue
                if found is None:
                    return
                if isinstance(found, AudiolexError | OSError):
                    raise found
                yield replace(found, waited_s=time.perf_counter() - began_s)
        finally:
            del loaded  # it asks its workers to end, which one that waits for a dead one never does
            end()
            atexit.unregister(end)
        raise TrainingFailed(
            f"a loader worker was killed ({failure}); run the same command again, where memory is "
            f"short with fewer than data.workers={self._num_workers}"
        )

    def _loader(self, place: Place) -> DataLoader[Loaded]:
        return DataLoader(
            _Steps(self._stream, place),
            batch_size=None,
            num_workers=self._num_workers,
            worker_init_fn=partial(_start, os.getpid()),
        )


@contextmanager
def _own_sigchld() -> Iterator[None]:
    """Torch would raise in the middle of whatever the training does when a worker ends; it looks
    for them when it waits for a step, too, which is soon enough. An earlier DataLoader of this
    process may have left torch's handler behind."""
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        if before is not None and current_thread() is main_thread():
            of_torch = getattr(before, "__module__", "") == signal_handling.__name__
            signal.signal(signal.SIGCHLD, signal.SIG_DFL if of_torch else before)


def _killed(error: Exception, workers: Iterable[BaseProcess]) -> str:
    """What is said of a worker that was killed, be it by torch, or by a pipe that it left; raises
    any other error again."""
    if str(error).startswith("DataLoader worker"):
        return str(error).splitlines()[0]
    deadline_s = time.monotonic() + END_LIMIT_S
    while time.monotonic() < deadline_s:  # the end of its pipe is seen before its own
        if died := [worker for worker in workers if worker.exitcode]:
            return ", ".join(f"pid {worker.pid}: {worker.exitcode}" for worker in died)
        time.sleep(0.01)
    raise error


def _end(workers: Iterable[BaseProcess]) -> None:
    for worker in workers:
        worker.kill()
        worker.join()


def _start(training: int, _: int) -> None:
    """Signals are for the training, which ends its workers once it has saved. Where it is killed
    they end at once: they have its lock, which the next training needs."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    end_with(training)  # torch looks, too, now and then
