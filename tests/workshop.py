"""Sandboxes whose children do a deed where a file says so."""

from __future__ import annotations

import sys
from pathlib import Path

from configs.frames import MelFrames
from configs.schema import AudioConfig
from pipeline.audio.clip import Clip
from pipeline.audio.limits import Window
from pipeline.audio.sandbox import ROOT, Given, Sandbox
from tests.broken import encoded

GOOD = encoded("WAV", "PCM_16")
EVIL = b"evil" + bytes(100)

# A child whose decoder does something else to files that begin with `evil`, and has small limits.
CHILD = """
import ctypes, os, signal, sys, time
sys.path.insert(0, {root!r})
from pipeline.audio import sandboxed

def segfault(): ctypes.string_at(8)
def abort(): os.abort()
def burn():
    while True: pass
def sleep():
    while True: time.sleep(9)
def eat():
    blocks = []
    while True: blocks.append(bytearray(1 << 24))
def killed(): os.kill(os.getpid(), signal.SIGKILL)
def slow(): time.sleep(1.0)
def fault(): sandboxed.AudioFile(7).format
def chatter(): os.write(1, b"from a C library\\n")
def late():
    time.sleep(0.9)

real = sandboxed.make_clip
def make_clip(file, *rest):
    with open({log!r}, "a") as log:
        log.write(f"{{os.getpid()}}\\n")
    if file.data[:4] == b"evil":
        {deed}()
        file = sandboxed.AudioFile(open({good!r}, "rb").read())
    return real(file, *rest)

sandboxed.make_clip = make_clip
sandboxed.CLIP_CPU_S, sandboxed.CLIP_WALL_S = {cpu_s}, {wall_s}
sandboxed.ADDRESS_SPACE_BYTES = 1 << 30
{prologue}
sandboxed.main()
"""


class Workshop:
    """Makes sandboxes whose children do a deed, and knows which children tried a clip."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = directory / "log"
        self.made: list[Sandbox] = []

    def sandbox(self, deed: str, cpu_s: int = 20, wall_s: int = 20, prologue: str = "") -> Sandbox:
        self.made.append(Sandbox(self.command(deed, cpu_s, wall_s, prologue)))
        return self.made[-1]

    def command(
        self, deed: str, cpu_s: int = 20, wall_s: int = 20, prologue: str = ""
    ) -> list[str]:
        (self.directory / "good.wav").write_bytes(GOOD)
        script = self.directory / "child.py"
        text = CHILD.format(
            root=str(ROOT),
            log=str(self.log),
            good=str(self.directory / "good.wav"),
            deed=deed,
            cpu_s=cpu_s,
            wall_s=wall_s,
            prologue=prologue,
        )
        script.write_text(text)
        return [sys.executable, str(script)]

    def tries(self) -> list[int]:
        return [int(line) for line in self.log.read_text().split()]


def ask(sandbox: Sandbox, data: bytes) -> Clip:
    sandbox.buffer[: len(data)] = data
    return sandbox.clip(Given(len(data)), Window(), AudioConfig(), MelFrames())


def pid_of(sandbox: Sandbox) -> int:
    assert sandbox.pid is not None
    return sandbox.pid
