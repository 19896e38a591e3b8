"""The child of a sandbox: it decodes one clip after another, under limits that the kernel keeps.

It ends where a clip takes too long or too much; `pipeline.audio.sandbox` judges what that means.
"""

from __future__ import annotations

import json
import mmap
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import scipy.fft  # which loads when used: not in the time of the first clip
import scipy.sparse  # noqa: F401
from pydantic import TypeAdapter

from configs.frames import FramesConfig
from configs.schema import AudioConfig
from pipeline.audio.clip import make_clip
from pipeline.audio.decode import AudioFile, declared_seconds
from pipeline.audio.limits import Window
from pipeline.audio.refusal import ClipRefused
from pipeline.audio.sandbox import (
    ADDRESS_SPACE_BYTES,
    CLIP_CPU_S,
    CLIP_WALL_S,
    MAX_FILE_BYTES,
    OUT_OF_MEMORY,
    REPLY_BYTES,
    ROOT,
    Given,
    SharedMemory,
)

FRAMES: TypeAdapter[FramesConfig] = TypeAdapter(FramesConfig)


def serve(requests: IO[bytes], replies: IO[bytes], given: mmap.mmap, made: mmap.mmap) -> None:
    """Answer requests until the parent is gone."""
    answers: dict[str, Callable[[dict[str, Any], AudioFile, mmap.mmap], dict[str, Any]]] = {
        "clip": _answer_clip,
        "seconds": _answer_seconds,
    }
    for line in requests:
        request = json.loads(line)
        limit_time()
        where = Given(**request["given"])
        try:
            file = AudioFile(given[: where.num_bytes], where.path, where.total_bytes)
            reply = answers[request["what"]](request, file, made)
        except ClipRefused as refusal:
            reply = {"reason": refusal.reason, "detail": refusal.detail}
        except MemoryError:  # it may be what earlier clips left: a new child tries again
            sys.exit(OUT_OF_MEMORY)
        except Exception as error:  # a fault of ours, and no reason to lose the other clips
            reply = {"reason": "decoder_error", "detail": _where(error)}
        signal.alarm(0)
        replies.write(json.dumps(reply).encode() + b"\n")
        replies.flush()


@lru_cache(maxsize=1)
def _config_of(text: str) -> tuple[AudioConfig, FramesConfig]:
    audio, frames = json.loads(text)
    return AudioConfig.model_validate(audio), FRAMES.validate_python(frames)


def _where(error: Exception) -> str:
    """The kind of an error and the line of this project that it came through last."""
    stack = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in stack if Path(frame.filename).is_relative_to(ROOT / "pipeline")]
    place = f" in {Path(own[-1].filename).name}, line {own[-1].lineno}" if own else ""
    return f"{type(error).__name__}{place}"


def _answer_clip(request: dict[str, Any], file: AudioFile, made: mmap.mmap) -> dict[str, Any]:
    audio, frames = _config_of(request["config"])
    clip = make_clip(file, Window(**request["window"]), audio, frames)
    num_bytes = clip.frames_TM.nbytes
    np.ndarray(clip.frames_TM.shape, np.float16, made)[:] = clip.frames_TM
    made[num_bytes : num_bytes + len(clip.flac)] = clip.flac
    return {
        "frames_shape": clip.frames_TM.shape,
        "flac_bytes": len(clip.flac),
        "facts": asdict(clip.facts),
    }


def _answer_seconds(_: dict[str, Any], file: AudioFile, __: mmap.mmap) -> dict[str, Any]:
    return {"seconds": declared_seconds(file)}


def limit_time() -> None:
    """Let the kernel end this process if the clip that comes takes too long."""
    used_s = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, int(used_s.ru_utime + used_s.ru_stime) + 1 + CLIP_CPU_S)
    signal.alarm(CLIP_WALL_S)


def limit_memory() -> None:
    """No more address space than a clip may need, and no core files: not even piped to a crash
    reporter, for which Linux takes a limit of 1 as the sign."""
    _limit(resource.RLIMIT_CORE, 1)
    if sys.platform == "linux":  # elsewhere the limit is not honoured
        _limit(resource.RLIMIT_AS, ADDRESS_SPACE_BYTES)


def _limit(what: int, most: int) -> None:
    """Set a soft limit, as far as the hard limit that a batch system may have set lets us."""
    _, hard = resource.getrlimit(what)
    resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def main() -> None:
    """The child's whole life."""
    given, made = (
        SharedMemory(num_bytes, int(fd)).map
        for num_bytes, fd in zip((MAX_FILE_BYTES, REPLY_BYTES), sys.argv[1:], strict=True)
    )
    for limit in (signal.SIGALRM, signal.SIGXCPU):  # a parent that ignores them hands that down
        signal.signal(limit, signal.SIG_DFL)
    limit_memory()
    with os.fdopen(os.dup(1), "wb") as replies, Path(os.devnull).open("wb") as nowhere:
        for stream in (1, 2):  # C libraries write to them what belongs into a refusal
            os.dup2(nowhere.fileno(), stream)
        serve(sys.stdin.buffer, replies, given, made)


if __name__ == "__main__":
    main()
