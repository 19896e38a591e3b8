"""`status --watch` as its own process, beside a run that another one makes: lines, a picture on a
terminal, Ctrl-C at any moment, and files that come and go."""

from __future__ import annotations

import fcntl
import os
import pty
import shutil
import signal
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from configs.load import dump_config
from configs.schema import Config
from pipeline.look import Sight, State
from pipeline.watch import QUIET_S, Patience
from shards.layout import Layout
from tests.commands import ROOT, command, write_config
from tests.conftest import tiny_tree
from tests.processes import wait_until

NUM_SHARDS = 16
LIMIT_S = 90.0


class Watcher:
    """A watch of a config, writing into a file or on a terminal."""

    def __init__(self, config: Path, directory: Path, terminal: int | None = None) -> None:
        self._out, self._err = directory / "watch.out", directory / "watch.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                command("pipeline", "status", config, "--watch"),
                cwd=ROOT,
                stdin=subprocess.DEVNULL if terminal is None else terminal,
                stdout=out if terminal is None else terminal,
                stderr=err,
                env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
                start_new_session=True,
                preexec_fn=partial(_as_in_a_terminal, terminal),
            )

    @property
    def said(self) -> str:
        return self._out.read_text()

    def ends(self) -> str:
        """Wait for its end, which has to be a good one; returns what it said."""
        code = self.process.wait(timeout=LIMIT_S)
        assert (code, self._err.read_text()) == (0, ""), self.said
        return self.said

    def interrupt(self) -> str:
        self.process.send_signal(signal.SIGINT)
        return self.ends()


def _as_in_a_terminal(terminal: int | None) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & ignores Ctrl-C
    if terminal is not None:
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


Watch = Callable[..., Watcher]


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    made: list[Watcher] = []

    def start(config: Path, terminal: int | None = None) -> Watcher:
        made.append(Watcher(config, tmp_path, terminal))
        return made[-1]

    yield start
    for watcher in made:
        watcher.process.kill()
        watcher.process.wait()


@pytest.fixture
def job(made_clips: Path, tmp_path: Path) -> Path:
    tree = tiny_tree(made_clips, tmp_path / "run")
    tree["shards"] = {"min_shards": NUM_SHARDS}
    return write_config(tmp_path / "job.yaml", tree)


@pytest.fixture
def made(own_run: Config, tmp_path: Path) -> Path:
    """The config of a made run."""
    path = tmp_path / "made.yaml"
    path.write_text(dump_config(own_run))
    return path


def driver(job: Path) -> subprocess.Popen[bytes]:
    words = command("pipeline", "all", job)
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_a_run_is_watched_from_before_its_birth_over_a_kill_to_its_end(
    job: Path, watch: Watch, tmp_path: Path
) -> None:
    watcher = watch(job)
    wait_until(lambda: "nothing made yet" in watcher.said, limit_s=LIMIT_S)
    records = tmp_path / "run" / "commits" / "shard" / "default"
    with driver(job) as first:
        wait_until(lambda: len(list(records.glob("0*.json"))) > 2, limit_s=LIMIT_S)
        first.send_signal(signal.SIGSTOP)  # so that it is seen at work, fast as it is
        wait_until(lambda: f"pid {first.pid} on" in watcher.said, limit_s=LIMIT_S)
        wait_until(lambda: "clips/s" in watcher.said, limit_s=LIMIT_S)
        first.kill()
    wait_until(lambda: "is gone: run the same command again" in watcher.said, limit_s=LIMIT_S)
    assert watcher.process.poll() is None
    with driver(job) as second:
        said = watcher.ends()
        assert second.wait(timeout=LIMIT_S) == 0
    assert f"pid {second.pid} on" in said
    for line in (
        f"shard: {NUM_SHARDS} of {NUM_SHARDS} committed, sealed",
        "codebook: 1 of 1 committed",
        f"tokenize: {NUM_SHARDS} of {NUM_SHARDS} committed, sealed",
        "has done its work",
    ):
        assert line in said


def test_a_run_that_is_made_is_shown_once(made: Path, watch: Watch) -> None:
    lines = watch(made).ends().splitlines()
    assert len(lines) == len(set(lines))
    assert "shard: 8 of 8 committed, sealed" in lines


@pytest.mark.parametrize("until", ["_pydantic_core", "libarrow", "nothing made yet"])
def test_ctrl_c_ends_it_well_while_it_imports_and_while_it_waits(
    job: Path, watch: Watch, until: str
) -> None:
    watcher = watch(job)
    maps = Path(f"/proc/{watcher.process.pid}/maps")
    wait_until(lambda: until in maps.read_text() + watcher.said, limit_s=LIMIT_S)
    began_s = time.monotonic()
    watcher.interrupt()
    assert time.monotonic() - began_s < 5


def test_a_run_that_vanishes_is_waited_for(made: Path, watch: Watch, tmp_path: Path) -> None:
    run = tmp_path / "run"
    seal = next(run.glob("seals/tokenize-*.json"))
    seal.unlink()
    watcher = watch(made)
    wait_until(lambda: "not sealed yet" in watcher.said, limit_s=LIMIT_S)
    shutil.rmtree(run)
    wait_until(lambda: "nothing made yet" in watcher.said, limit_s=LIMIT_S)
    watcher.interrupt()


def test_half_a_plan_is_trouble_that_passes(made: Path, watch: Watch, tmp_path: Path) -> None:
    plan = Layout(tmp_path / "run").plan_json
    data = plan.read_bytes()
    plan.write_bytes(data[:50])
    watcher = watch(made)
    wait_until(lambda: "cannot be read now" in watcher.said, limit_s=LIMIT_S)
    plan.write_bytes(data)
    assert "tokenize: 8 of 8 committed, sealed" in watcher.ends()


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    yield ours, theirs
    os.close(ours)
    os.close(theirs)


def read(terminal: int, seen: bytearray) -> str:
    """All that was written on the terminal so far."""
    try:
        while data := os.read(terminal, 1 << 16):
            seen += data
    except BlockingIOError:
        pass
    return seen.decode(errors="replace")


def test_on_a_terminal_a_picture_is_drawn_again_and_again(
    made: Path, watch: Watch, terminal: tuple[int, int], tmp_path: Path
) -> None:
    seal = next((tmp_path / "run").glob("seals/tokenize-*.json"))
    data, seen = seal.read_bytes(), bytearray()
    seal.unlink()
    watcher = watch(made, terminal[1])
    wait_until(lambda: read(terminal[0], seen).count("8/8") >= 4, limit_s=LIMIT_S)
    seal.write_bytes(data)
    watcher.ends()
    said = read(terminal[0], seen)
    assert "━" in said
    assert "\x1b[2K" in said  # lines are drawn over
    assert said.count("sealed") >= 2
    assert said.rindex("\x1b[?25h") > said.rindex("\x1b[?25l")  # the cursor is back


def test_ctrl_c_on_a_terminal(job: Path, watch: Watch, terminal: tuple[int, int]) -> None:
    seen = bytearray()
    watcher = watch(job, terminal[1])
    wait_until(lambda: "nothing made yet" in read(terminal[0], seen), limit_s=LIMIT_S)
    os.write(terminal[0], b"\x03")
    watcher.ends()
    said = read(terminal[0], seen)
    assert said.rindex("\x1b[?25h") > said.rindex("\x1b[?25l")
    assert "Traceback" not in said


def sight(state: State, is_finished: bool, fault: str = "") -> Sight:
    class Seen(Sight):
        @property
        def is_finished(self) -> bool:
            return is_finished

    return Seen(Path(), 1, 1, (), (), 0, {}, None, state, fault, ())


@pytest.mark.parametrize(
    ("state", "is_finished", "ends"),
    [
        ("at work", True, False),  # between two stages
        ("done", True, True),
        ("gone", True, True),
        ("nobody", True, True),
        ("gone", False, False),  # somebody may go on
        ("failed", False, False),
        ("not seen", True, False),
    ],
)
def test_it_ends_when_nothing_more_can_come(state: State, is_finished: bool, ends: bool) -> None:
    assert Patience().ends(sight(state, is_finished), 0.0) == ends


def test_a_driver_that_cannot_be_seen_has_a_while_to_begin_another_stage() -> None:
    patience = Patience()
    assert not patience.ends(sight("not seen", True), 0.0)
    assert not patience.ends(sight("not seen", False), 30.0)
    assert not patience.ends(sight("not seen", True), QUIET_S)
    assert not patience.ends(sight("not seen", True), 2 * QUIET_S - 1)
    assert patience.ends(sight("not seen", True), 2 * QUIET_S)


def test_a_failure_may_be_mended_for_a_while() -> None:
    failed, patience = sight("failed", False, fault="no worker came"), Patience()
    assert not patience.ends(failed, 0.0)
    assert not patience.ends(sight("at work", False), 30.0)
    assert not patience.ends(failed, 40.0)
    assert not patience.ends(failed, 39.0 + QUIET_S)
    assert patience.ends(failed, 40.0 + QUIET_S)
