"""The child that decodes: it may crash, hang or starve, and nothing but a bad clip pays for it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from configs.errors import DecoderLost
from configs.frames import MelFrames
from configs.schema import AudioConfig
from pipeline.audio.clip import Clip
from pipeline.audio.limits import Window
from pipeline.audio.refusal import ClipRefused
from pipeline.audio.sandbox import MAX_KILLS, ROOT, Given, Sandbox
from tests.broken import encoded, samples

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


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    workshop = Workshop(tmp_path)
    yield workshop
    for sandbox in workshop.made:
        sandbox.close()


def ask(sandbox: Sandbox, data: bytes) -> Clip:
    sandbox.buffer[: len(data)] = data
    return sandbox.clip(Given(len(data)), Window(), AudioConfig(), MelFrames())


def pid_of(sandbox: Sandbox) -> int:
    assert sandbox.pid is not None
    return sandbox.pid


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until(holds: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


# --- deaths --------------------------------------------------------------------------------------


def test_a_child_lives_for_many_clips(workshop: Workshop) -> None:
    sandbox = workshop.sandbox("slow")
    for _ in range(5):
        ask(sandbox, GOOD)
    assert len(set(workshop.tries())) == 1


def test_a_child_that_is_killed_between_clips_is_replaced(workshop: Workshop) -> None:
    sandbox = workshop.sandbox("slow")
    first = ask(sandbox, GOOD)
    for _ in range(MAX_KILLS + 1):
        os.kill(pid_of(sandbox), signal.SIGKILL)
        again = ask(sandbox, GOOD)
        assert again.frames_TM.tobytes() == first.frames_TM.tobytes()
    assert len(set(workshop.tries())) == MAX_KILLS + 2


def test_a_child_that_is_killed_during_a_clip_is_replaced(workshop: Workshop) -> None:
    sandbox = workshop.sandbox("slow")
    ask(sandbox, GOOD)
    pid = pid_of(sandbox)
    killer = threading.Timer(0.3, os.kill, (pid, signal.SIGKILL))
    killer.start()
    clip = ask(sandbox, EVIL)
    killer.join()
    assert clip.facts.num_samples == 22_050
    assert pid_of(sandbox) != pid
    assert len(workshop.tries()) == 3, "the good clip, and the slow one twice"


@pytest.mark.parametrize(
    ("deed", "reason", "detail"),
    [
        ("segfault", "decoder_crashed", "segmentation fault"),
        ("abort", "decoder_crashed", "aborted"),
        ("burn", "decoder_hung", "over 10 s of CPU time"),
        ("sleep", "decoder_hung", "over 60 s"),
        ("eat", "decoder_memory", "over 2048 MiB"),
    ],
)
def test_a_clip_that_ends_two_children_is_refused(
    workshop: Workshop, deed: str, reason: str, detail: str
) -> None:
    cpu_s, wall_s = (0 if deed == "burn" else 20), (1 if deed == "sleep" else 20)
    sandbox = workshop.sandbox(deed, cpu_s, wall_s)
    before = ask(sandbox, GOOD)
    with pytest.raises(ClipRefused) as caught:
        ask(sandbox, EVIL)
    assert (caught.value.reason, caught.value.detail) == (reason, detail)
    assert len(workshop.tries()) == 3
    assert len(set(workshop.tries())) == 2, "the second try is a fresh child's"
    assert ask(sandbox, GOOD).frames_TM.tobytes() == before.frames_TM.tobytes()
    assert not list(workshop.directory.glob("core*"))
    assert not list(ROOT.glob("core*"))


def test_a_child_that_something_else_kills_again_and_again_fails_the_task(
    workshop: Workshop,
) -> None:
    """The machine is out of memory: no clip is to blame for that."""
    sandbox = workshop.sandbox("killed")
    with pytest.raises(DecoderLost, match=r"ended 5 times with exit status -9.*fewer workers"):
        ask(sandbox, EVIL)
    assert len(workshop.tries()) == MAX_KILLS


def test_an_exception_in_the_parent_leaves_no_answer_for_the_next_clip(workshop: Workshop) -> None:
    sandbox = workshop.sandbox("slow")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGUSR1))
    try:
        ask(sandbox, GOOD)
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            ask(sandbox, EVIL)
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
    short = encoded("WAV", "PCM_16", samples()[:4_410])
    assert ask(sandbox, short).facts.num_samples == 4_410


# --- limits --------------------------------------------------------------------------------------


def test_time_is_counted_anew_for_each_clip(workshop: Workshop) -> None:
    sandbox = workshop.sandbox("late", wall_s=2)
    for _ in range(3):
        ask(sandbox, EVIL)
    assert len(set(workshop.tries())) == 1


def test_an_idle_child_is_not_ended_by_its_own_alarm(workshop: Workshop) -> None:
    sandbox = workshop.sandbox("slow", wall_s=1)
    ask(sandbox, GOOD)
    pid = pid_of(sandbox)
    time.sleep(1.5)
    assert is_alive(pid)
    ask(sandbox, GOOD)
    assert workshop.tries() == [pid, pid]


def test_limits_hold_where_the_parent_ignores_their_signals(workshop: Workshop) -> None:
    """`nohup` and batch systems leave signals ignored, and that is handed down."""
    ignored = "import signal; signal.signal(signal.SIGALRM, signal.SIG_IGN)"
    sandbox = workshop.sandbox("sleep", wall_s=1, prologue=ignored)
    with pytest.raises(ClipRefused, match="decoder_hung"):
        ask(sandbox, EVIL)


@pytest.mark.parametrize(
    "limit", ["RLIMIT_CPU, (3000, 3000)", "RLIMIT_AS, (1000 << 20, 1000 << 20)"]
)
def test_a_limit_that_a_batch_system_has_set_is_kept(workshop: Workshop, limit: str) -> None:
    prologue = f"import resource; resource.setrlimit(resource.{limit})"
    assert ask(workshop.sandbox("slow", prologue=prologue), GOOD).facts.num_samples == 22_050


def test_a_fault_of_ours_costs_one_clip_and_says_where_it_is(workshop: Workshop) -> None:
    sandbox = workshop.sandbox("fault")
    with pytest.raises(ClipRefused) as caught:
        ask(sandbox, EVIL)
    assert caught.value.reason == "decoder_error"
    assert re.fullmatch(r"\w+Error in \w+\.py, line \d+", caught.value.detail)
    assert ask(sandbox, GOOD).facts.num_samples
    assert len(set(workshop.tries())) == 1


def test_what_a_library_prints_is_no_answer(workshop: Workshop) -> None:
    assert ask(workshop.sandbox("chatter"), EVIL).facts.num_samples == 22_050


def test_the_child_makes_no_core_files(workshop: Workshop) -> None:
    sandbox = workshop.sandbox("slow")
    ask(sandbox, GOOD)
    limits = Path(f"/proc/{pid_of(sandbox)}/limits").read_text()
    (core,) = [line.split() for line in limits.splitlines() if line.startswith("Max core")]
    assert core[4] in ("0", "1")
    (space,) = [line.split() for line in limits.splitlines() if line.startswith("Max address")]
    assert space[3] == str(1 << 30)


def test_nothing_listens(workshop: Workshop) -> None:
    sandbox = workshop.sandbox("slow")
    ask(sandbox, GOOD)
    links = [str(link.readlink()) for link in Path(f"/proc/{pid_of(sandbox)}/fd").iterdir()]
    assert any("memfd:clip" in link for link in links)
    assert not [link for link in links if link.startswith("socket:")]
    with socket.socket() as here:  # the check sees sockets where there are some
        assert str(Path(f"/proc/self/fd/{here.fileno()}").readlink()).startswith("socket:")


# --- lives ---------------------------------------------------------------------------------------

PARENT = """
import sys
sys.path.insert(0, {root!r})
from tests.test_pipeline.test_sandbox import ask, GOOD, EVIL
from pipeline.audio.sandbox import Sandbox
sandbox = Sandbox({command!r})
ask(sandbox, GOOD)
print(sandbox.pid, flush=True)
if {is_busy}:
    ask(sandbox, EVIL)
sys.stdin.read()
"""


@pytest.mark.parametrize("is_busy", [False, True])
def test_a_child_dies_with_its_parent(workshop: Workshop, is_busy: bool) -> None:
    command = workshop.command("sleep", wall_s=2)
    script = PARENT.format(root=str(ROOT), command=command, is_busy=is_busy)
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        wait_until(lambda: len(workshop.tries()) == 1 + is_busy)
        assert is_alive(child)
        parent.kill()
        parent.wait()
    wait_until(lambda: not is_alive(child))


def test_close_ends_the_child_and_the_next_clip_starts_another(workshop: Workshop) -> None:
    sandbox = workshop.sandbox("slow")
    ask(sandbox, GOOD)
    pid = pid_of(sandbox)
    sandbox.close()
    assert sandbox.pid is None
    assert not is_alive(pid)
    ask(sandbox, GOOD)
    assert pid_of(sandbox) != pid


def test_sandboxes_that_are_gone_leave_no_open_files() -> None:
    def num_open() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    Sandbox().close()
    before = num_open()
    for _ in range(5):
        Sandbox().close()
    assert num_open() == before


def test_the_child_runs_this_code_wherever_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "__init__.py").write_text("raise SystemExit('another pipeline')")
    (tmp_path / "json.py").write_text("raise SystemExit('another json')")
    monkeypatch.chdir(tmp_path)
    sandbox = Sandbox()
    try:
        assert ask(sandbox, GOOD).facts.num_samples == 22_050
    finally:
        sandbox.close()
