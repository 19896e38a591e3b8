"""Files appear whole or not at all, and the system calls come in the order that makes it so."""

from __future__ import annotations

import errno
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shards.atomic import (
    Attempt,
    create_whole,
    make_directory,
    sha256_file,
    sweep,
    write_whole,
)

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    return tmp_path / "partial"


def test_nothing_has_the_final_name_before_publish(partial: Path, tmp_path: Path) -> None:
    final = tmp_path / "deep" / "final"
    with Attempt(partial, "shard-000001") as attempt:
        attempt.path("data").write_bytes(b"half")
        assert not final.parent.exists()
        attempt.publish("data", final)
        assert final.read_bytes() == b"half"
        assert not attempt.path("data").exists()


def test_an_attempt_that_fails_leaves_nothing(partial: Path, tmp_path: Path) -> None:
    def fail() -> None:
        with Attempt(partial, "shard") as attempt:
            attempt.path("data").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert not list(partial.iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["partial"]


def test_a_full_disk_is_named(partial: Path) -> None:
    """Python's own message of a write has no name in it."""

    def fill() -> None:
        with Attempt(partial, "page") as attempt:
            attempt.path("data").symlink_to("/dev/full")
            attempt.path("data").write_bytes(b"one too many")

    with pytest.raises(OSError, match="No space left on device: '.*/partial/page-"):
        fill()


def test_a_fault_of_a_read_stays_as_it_is(partial: Path) -> None:
    def fail() -> None:
        with Attempt(partial, "page"):
            raise OSError(errno.EIO, "a source that cannot be read")

    with pytest.raises(OSError, match="a source") as caught:
        fail()
    assert caught.value.filename is None


def test_two_attempts_at_one_task_are_apart(partial: Path) -> None:
    with Attempt(partial, "shard") as one, Attempt(partial, "shard") as two:
        one.path("data").write_bytes(b"1")
        assert not two.path("data").exists()
        assert one.directory.name.startswith("shard-")


def test_publish_replaces_and_create_does_not(partial: Path, tmp_path: Path) -> None:
    final = tmp_path / "final"
    assert create_whole(partial, final, b"first")
    assert not create_whole(partial, final, b"second")
    assert final.read_bytes() == b"first"
    write_whole(partial, final, b"third")
    assert final.read_bytes() == b"third"
    assert not list(partial.iterdir())


def test_a_directory_appears_with_all_its_files(partial: Path, tmp_path: Path) -> None:
    final = tmp_path / "codebooks" / "default"
    with Attempt(partial, "codebook") as attempt:
        attempt.path("made").mkdir()
        for name in "ab":
            (attempt.path("made") / name).write_text(name)
        assert not final.exists()
        attempt.publish_directory("made", final)
    assert {path.name: path.read_text() for path in final.iterdir()} == {"a": "a", "b": "b"}


def test_sweep_removes_what_killed_attempts_left(partial: Path) -> None:
    (partial / "shard-000001-abc").mkdir(parents=True)
    (partial / "shard-000001-abc" / "audio.tar").write_bytes(b"half")
    sweep(partial)
    assert partial.is_dir()
    assert not list(partial.iterdir())
    sweep(partial / "never made")


def test_make_directory_may_meet_itself(tmp_path: Path) -> None:
    for _ in range(2):
        make_directory(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_file(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223")


# --- the order of system calls ---------------------------------------------------------------

ACTIONS = {
    "publish": "a.path('data').write_bytes(b'x' * 99); a.publish('data', root / 'new' / 'final')",
    "create": "a.path('data').write_bytes(b'x' * 99); a.create('data', root / 'new' / 'final')",
    "publish_directory": (
        "a.path('data').mkdir(); (a.path('data') / 'f').write_bytes(b'x' * 99);"
        "a.publish_directory('data', root / 'new' / 'final')"
    ),
}
SCRIPT = """
import sys
from pathlib import Path
from shards.atomic import Attempt
root = Path(sys.argv[1])
with Attempt(root / "partial", "t") as a:
    {action}
"""
CALL = re.compile(r"\b(write|fsync|fdatasync|mkdir|rename|link)(?:at2?)?\((.*)\) += 0?[0-9]")
LAST_NAME = re.compile(r'/([^/<>"]+)[>"]')


def can_trace() -> bool:
    if shutil.which("strace") is None:
        return False
    return (
        subprocess.run(["strace", "-f", "true"], capture_output=True, check=False).returncode == 0
    )


def traced(action: str, root: Path) -> list[str]:
    """The calls that touch `root`, as `fsync data`: the call and the last name in its arguments."""
    trace = root.parent / "trace"
    calls = "write,fsync,fdatasync,mkdir,mkdirat,rename,renameat,renameat2,link,linkat"
    strace = ["strace", "-f", "-y", "-s", "0", "-e", f"trace={calls}", "-o", str(trace)]
    python = [sys.executable, "-c", SCRIPT.format(action=ACTIONS[action]), str(root)]
    subprocess.run([*strace, *python], cwd=REPOSITORY, check=True)
    found = []
    for line in trace.read_text().splitlines():
        match = CALL.search(line)
        if match and str(root) in match[2]:
            found.append(f"{match[1]} {LAST_NAME.findall(match[2])[-1]}")
    return found


@pytest.mark.skipif(not can_trace(), reason="needs a working strace")
@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("publish", ["write data", "fsync data", "rename final"]),
        ("create", ["write data", "fsync data", "link final"]),
        ("publish_directory", ["write f", "fsync f", "fsync data", "rename final"]),
    ],
)
def test_bytes_are_durable_before_their_name_and_the_name_before_the_return(
    action: str, expected: list[str], tmp_path: Path
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    calls = traced(action, root)
    *before, named = expected
    made = ["mkdir new", "fsync root"]  # the directory that holds the name is durable, too
    start = calls.index(expected[0])
    assert calls[start:] == [*before, *made, named, "fsync new"]
