"""The child that decodes: it may crash, hang or starve, and nothing but a bad clip pays for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from configs.errors import DecoderLost
from configs.processes import is_alive
from pipeline.audio.refusal import ClipRefused
from pipeline.audio.sandbox import MAX_KILLS, ROOT, Sandbox
from tests.broken import encoded, samples
from tests.processes import wait_until
from tests.workshop import EVIL, GOOD, Workshop, ask, pid_of

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
