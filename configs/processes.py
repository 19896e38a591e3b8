"""Is a process of this host still there? And none without the one that started it."""

from __future__ import annotations

import ctypes
import os
import signal
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG = 1  # prctl(2)


def is_alive(pid: int) -> bool:
    """Whether it runs; one that has ended, and that nobody has waited for, does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:  # gone since, or no Linux
        return False
    return state.rpartition(")")[2].split()[:1] == ["Z"]


def end_with(parent: int) -> None:
    """Let the kernel kill this process when `parent`, which has started it, ends in any way."""
    with suppress(AttributeError, OSError):  # not on every system
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was quicker
        os.kill(os.getpid(), signal.SIGKILL)
