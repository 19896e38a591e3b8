"""A child process that decodes, so that a file can crash, hang or starve nothing but the child.

The parent puts a file into shared memory and writes one line of JSON; the child answers with one
line and leaves frames and FLAC in shared memory: nothing large goes through a pipe, so a clip
costs the same as without. The child lives for many clips. The kernel ends it where a clip takes
more CPU or wall time, or more memory, than a clip may; then a new child tries that clip once more,
and a second death is the clip's own. Children that something else killed are not held against
the clip.
"""

from __future__ import annotations

import atexit
import json
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import DecoderLost
from configs.frames import FramesConfig
from configs.schema import AudioConfig
from pipeline.audio.clip import Clip, ClipFacts, FramesTM
from pipeline.audio.limits import Window
from pipeline.audio.refusal import ClipRefused

MIB = 1 << 20
MAX_FILE_BYTES = 64 * MIB
HEAD_BYTES = 64 * 1024  # of a file that is too large to hold: enough for its headers
REPLY_BYTES = 256 * MIB  # address space only: frames and FLAC of the longest clip
CLIP_CPU_S = 10
CLIP_WALL_S = 60  # a file system that stalls, or a machine that is very busy
ADDRESS_SPACE_BYTES = 2048 * MIB
MAX_DEATHS = 2  # of children on one clip, before the clip is to blame
MAX_KILLS = 5  # of children by something else, before the task fails
OUT_OF_MEMORY = 88  # the exit status of a child that asked for more than it may have
OWN_DEATHS = {  # by exit status: what the clip itself can do to a child
    -signal.SIGXCPU: ("decoder_hung", f"over {CLIP_CPU_S} s of CPU time"),
    -signal.SIGALRM: ("decoder_hung", f"over {CLIP_WALL_S} s"),
    -signal.SIGSEGV: ("decoder_crashed", "segmentation fault"),
    -signal.SIGBUS: ("decoder_crashed", "bus error"),
    -signal.SIGABRT: ("decoder_crashed", "aborted"),
    -signal.SIGFPE: ("decoder_crashed", "arithmetic fault"),
    -signal.SIGILL: ("decoder_crashed", "illegal instruction"),
    -signal.SIGTRAP: ("decoder_crashed", "trap"),
    OUT_OF_MEMORY: ("decoder_memory", f"over {ADDRESS_SPACE_BYTES // MIB} MiB"),
}
ROOT = Path(__file__).parents[2]
CHILD = (sys.executable, "-P", "-m", "pipeline.audio.sandboxed")
CHILD_ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    # glibc: keep the memory of one clip for the next. Giving megabytes back to the kernel, and
    # faulting them in again page by page, costs a tenth of a clip's time.
    "MALLOC_MMAP_THRESHOLD_": str(32 * MIB),
    "MALLOC_TRIM_THRESHOLD_": str(1024 * MIB),
    "MALLOC_TOP_PAD_": str(64 * MIB),
}


class Sandbox:
    """Decodes clips in a child process that is started when it is first needed.

    Not for several threads at once. `close` it, or let the parent's end close it. `command`
    starts a child that does what `main` does; it gets two file descriptors as arguments.
    """

    def __init__(self, command: Sequence[str] = CHILD) -> None:
        self._command = command
        self._request = SharedMemory(MAX_FILE_BYTES)
        self._reply = SharedMemory(REPLY_BYTES)
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def buffer(self) -> memoryview:
        """Where to put the bytes of a file (MAX_FILE_BYTES of them) before `clip` or `seconds`."""
        return memoryview(self._request.map)

    @property
    def pid(self) -> int | None:
        """The child's process id, None where none runs."""
        return None if self._child is None else self._child.pid

    def clip(self, given: Given, window: Window, audio: AudioConfig, frames: FramesConfig) -> Clip:
        """`make_clip` of a file; raises ClipRefused, also for a file that the child dies of."""
        config = _config_json(audio, frames)
        reply = self._ask("clip", given, window=asdict(window), config=config)
        facts = ClipFacts(**reply["facts"])
        shape = tuple(reply["frames_shape"])
        frames_TM: FramesTM = np.ndarray(shape, np.float16, self._reply.map).copy()
        flac = self._reply.map[frames_TM.nbytes : frames_TM.nbytes + reply["flac_bytes"]]
        return Clip(frames_TM, flac, facts)

    def seconds(self, given: Given) -> float | None:
        """`declared_seconds` of a file; raises ClipRefused as `clip` does."""
        seconds: float | None = self._ask("seconds", given)["seconds"]
        return seconds

    def cpu_s(self) -> float:
        """CPU seconds that the child has used so far (Linux; 0 where there is none)."""
        if self._child is None:
            return 0.0
        fields = Path(f"/proc/{self._child.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """End the child; the next request starts another."""
        if self._child is not None:
            self._child.kill()
            self._reap()

    def _ask(self, what: str, given: Given, **rest: Any) -> dict[str, Any]:
        request = json.dumps({"what": what, "given": asdict(given), **rest}).encode() + b"\n"
        deaths = kills = 0
        while True:
            line = self._exchange(request)
            if line:
                return _result(json.loads(line))
            status = self._reap()
            if status in OWN_DEATHS:
                deaths += 1
                if deaths == MAX_DEATHS:
                    raise ClipRefused(*OWN_DEATHS[status])
            else:
                kills += 1
                if kills == MAX_KILLS:
                    raise DecoderLost(
                        f"the decoder ended {kills} times with exit status {status}; if the "
                        "machine is short of memory, use fewer workers"
                    )

    def _exchange(self, request: bytes) -> bytes:
        """One request and its reply line; empty where the child died."""
        child = self._child or self._start()
        if child.stdin is None or child.stdout is None:
            raise RuntimeError("the child has no pipes")
        try:
            child.stdin.write(request)
            child.stdin.flush()
            line = child.stdout.readline()
        except BrokenPipeError:
            return b""
        except BaseException:  # the answer to this request must not meet the next one
            self.close()
            raise
        return line if line.endswith(b"\n") else b""

    def _start(self) -> subprocess.Popen[bytes]:
        fds = (self._request.fd, self._reply.fd)
        self._child = subprocess.Popen(  # noqa: S603 - our own module
            [*self._command, *map(str, fds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=fds,
            start_new_session=True,  # Ctrl-C is for the parent
            env={**os.environ, **CHILD_ENVIRONMENT},
        )
        return self._child

    def _reap(self) -> int:
        """The exit status of the child that died, after which there is none."""
        child, self._child = self._child, None
        if child is None:
            raise RuntimeError("there is no child")
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):  # what the child did not read any more
                    pipe.close()
        return child.wait()


@dataclass(frozen=True)
class Given:
    """The file that a request is about: `num_bytes` of it in the buffer; `path` and its
    `total_bytes` where that is only its beginning."""

    num_bytes: int
    path: str | None = None
    total_bytes: int | None = None


class SharedMemory:
    """Anonymous memory that a child process can map, too; pages are taken when written."""

    def __init__(self, num_bytes: int, fd: int | None = None) -> None:
        self.fd = _anonymous_file(num_bytes) if fd is None else fd
        self.map = mmap.mmap(self.fd, num_bytes)
        weakref.finalize(self, os.close, self.fd)


def _anonymous_file(num_bytes: int) -> int:
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("clip")
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, num_bytes)
    return fd


def _result(reply: dict[str, Any]) -> dict[str, Any]:
    if "reason" in reply:
        raise ClipRefused(reply["reason"], reply["detail"])
    return reply


@lru_cache(maxsize=1)
def _config_json(audio: AudioConfig, frames: FramesConfig) -> str:
    """The two sections as text: the same for every clip of a task, on both sides."""
    return json.dumps([audio.model_dump(mode="json"), frames.model_dump(mode="json")])


_own: list[Sandbox] = []


def own_sandbox() -> Sandbox:
    """This process's sandbox: one child for all the tasks that it runs, one after another."""
    if not _own:
        _own.append(Sandbox())
        atexit.register(_own[0].close)
    return _own[0]
