"""A stop signal ends a command with 75, also where an exception from nowhere would be lost."""

from __future__ import annotations

import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from configs.signals import STOP_SIGNALS

REPOSITORY = Path(__file__).parents[2]

COMMAND = """
import argparse, sys
from pathlib import Path
from configs.cli import RunVerb, main
from configs.signals import leave
def run(path, args):
    import work
    return work.run()
leave(main("pkg", {"work": RunVerb(run, "work", lambda parser: None)}, sys.argv[1:]))
"""

AT_WORK = """
import atexit
atexit.register(print, "cleaned up")
def wait(seconds):
    print("ready", flush=True)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)
"""

GREEDY = """
from waiting import wait
try:
    wait({seconds})
except BaseException:  # as C code does that imports
    pass
"""

PLACES = {
    "in plain code": "wait(60)",
    "in a string that is executed": 'exec("wait(60)")',
    "in an import": "import greedy\nwait(60)",
    "in a serializer": "Shown(of=1).model_dump()\nwait(60)",
    "in a __del__": "Deleted()\nwait(60)",
}

WORK = """
from pydantic import BaseModel, field_serializer
from waiting import wait
class Shown(BaseModel):
    of: int
    @field_serializer("of")
    def show(self, of):
        try:
            wait(0.3)
        except BaseException:  # as pydantic's own code does now and then
            pass
        return of
class Deleted:
    def __del__(self):
        wait(0.3)
def run():
    {place}
"""


def told(directory: Path, number: int) -> tuple[int, str, str]:
    """Send a signal to a command that has said that it is ready; its exit code, and all that it
    said after that."""
    process = subprocess.Popen(
        [sys.executable, "-m", "command", "work", str(directory)],
        cwd=REPOSITORY,
        env={"PYTHONPATH": f"{directory}:{REPOSITORY}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(signal.signal, number, signal.SIG_DFL),  # a shell's & ignores Ctrl-C
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        said, errors = process.communicate(timeout=30)
    return process.returncode, said, errors


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A run with the modules of a command that waits."""
    (tmp_path / "config.yaml").touch()
    (tmp_path / "command.py").write_text(COMMAND)
    (tmp_path / "waiting.py").write_text(f"import time\n{AT_WORK}")
    (tmp_path / "greedy.py").write_text(GREEDY.format(seconds=0.3))
    return tmp_path


STOPPED = "stopped: the same command goes on from what is committed\n"


@pytest.mark.parametrize("number", STOP_SIGNALS)
@pytest.mark.parametrize("place", PLACES)
def test_a_signal_at_work_stops_it_in_order(place: str, number: int, directory: Path) -> None:
    body = PLACES[place].replace("\n", "\n    ")
    (directory / "work.py").write_text(WORK.format(place=body))
    code, said, errors = told(directory, number)
    assert (code, errors) == (75, STOPPED)
    assert said.splitlines()[-1] == "cleaned up"


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_while_the_work_is_imported_ends_it_at_once(number: int, directory: Path) -> None:
    """There is nothing to clean up yet."""
    (directory / "work.py").write_text(GREEDY.format(seconds=60))
    assert told(directory, number) == (75, "", STOPPED)


def test_ctrl_c_that_is_ignored_stays_so(directory: Path) -> None:
    """As in a shell's `command &`."""
    lines = (
        "import signal\n    return 7 if signal.getsignal(signal.SIGINT) == signal.SIG_IGN else 0"
    )
    (directory / "work.py").write_text(WORK.format(place=lines))
    done = subprocess.run(
        [sys.executable, "-m", "command", "work", str(directory)],
        cwd=REPOSITORY,
        env={"PYTHONPATH": f"{directory}:{REPOSITORY}"},
        check=False,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_IGN),
    )
    assert done.returncode == 7


LEAVING = """
import atexit, os, signal, sys
from configs.signals import leave
atexit.register(lambda: print("last words"))
for number in (signal.SIGINT, signal.SIGTERM):
    atexit.register(os.kill, os.getpid(), number)
leave(int(sys.argv[1]))
"""


@pytest.mark.parametrize("code", [0, 1, 75])
def test_signals_at_the_very_end_change_no_exit_code(code: int) -> None:
    words = [sys.executable, "-c", LEAVING, str(code)]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, "last words\n", "")
