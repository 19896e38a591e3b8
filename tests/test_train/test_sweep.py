"""`train sweep`: every point of a grid, whatever stops it or fails on the way."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from configs.errors import Preempted
from shards.layout import Layout
from shards.lock import hold
from shards.verify import verify
from tests.commands import ROOT, command, data_files, run, succeed, write_config
from tests.conftest import tiny_tree
from tests.processes import family, is_at_work, wait_until
from train import sweep

GRID = ("codebook.k=8,16", "model=linear,bag")
QUICK_S = 1.5  # in which no training is over: it imports torch
NAMES = ["k8-linear", "k8-bag", "k16-linear", "k16-bag"]


@pytest.fixture(scope="module")
def swept(made_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The directory of a sweep that nobody disturbed, and what it printed; only read from it."""
    directory = tmp_path_factory.mktemp("swept")
    job = write_config(directory / "job.yaml", tiny_tree(made_clips, directory / "run"))
    return directory, succeed("train", "sweep", job, *GRID)


@pytest.fixture
def job(made_clips: Path, tmp_path: Path) -> Path:
    return write_config(tmp_path / "job.yaml", tiny_tree(made_clips, tmp_path / "run"))


def last_line(printed: str) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return tree


def made(directory: Path) -> dict[str, str]:
    """Hashes of all that a sweep makes: data, weights and scores."""
    models = directory / "run/models"
    patterns = ("model.*", "scores.parquet", "eval.json")
    paths = [path for pattern in patterns for path in models.glob(f"*/{pattern}")]
    hashes = {str(p.relative_to(models)): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}
    return hashes | data_files(directory / "run")


# --- real commands ------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_sweep_scores_every_point(swept: tuple[Path, str]) -> None:
    directory, printed = swept
    line = last_line(printed)
    assert [point["name"] for point in line["points"]] == NAMES
    assert [point["settings"] for point in line["points"]] == [
        {"codebook.k": k, "model": model} for k in (8, 16) for model in ("linear", "bag")
    ]
    assert not line["failed"]
    for point in line["points"]:
        scores = json.loads((directory / "run/models" / point["name"] / "eval.json").read_bytes())
        for name in ("map", "prior_map"):
            assert point[name] == pytest.approx(100 * scores[name], abs=0.01)
        assert 0 < point["seconds"] < line["seconds"]
    assert "\nsweep 4/11: codebook.k=8 model=linear: eval\n" in printed
    rows = printed.splitlines()[-6:-1]
    assert rows[0].split() == ["point", "mAP", "prior", "seconds"]
    assert rows[3].split()[:3] == ["codebook.k=16", "model=linear", f"{point_map(line, 2):.2f}%"]


def point_map(line: dict[str, Any], number: int) -> float:
    return float(line["points"][number]["map"])


@pytest.mark.slow
def test_shards_are_decoded_once(swept: tuple[Path, str]) -> None:
    directory, printed = swept
    assert printed.count("shard: 8 shards\n") == 1
    assert sorted(path.name for path in (directory / "run/tokens").iterdir()) == ["k16", "k8"]
    findings = verify(Layout(directory / "run"), "deep")
    assert not findings.faults
    assert not findings.extra


@pytest.mark.slow
def test_a_sweep_that_is_stopped_and_killed_ends_at_the_same_bytes(
    swept: tuple[Path, str], job: Path
) -> None:
    words = command("train", "sweep", job, *GRID)
    for number, when, never in (
        (signal.SIGTERM, "codebook k8: k=8", "tokenize k8: "),
        (signal.SIGKILL, "sweep 3/11: ", "fit k8-linear: "),
        (signal.SIGINT, ": codebook k16: all", "tokenize k16: "),
    ):
        code, said = interrupted(words, job.parent / "log", number, when)
        assert "Traceback" not in said
        assert never not in said  # the command was told, too
        assert code == (-number if number == signal.SIGKILL else 75), said
        if code == 75:
            assert said.splitlines()[-1].startswith("stopped: ")
    printed = succeed("train", "sweep", job, *GRID)
    assert [point["name"] for point in last_line(printed)["points"]] == NAMES
    assert made(job.parent) == made(swept[0])


def interrupted(words: Sequence[str], log: Path, number: int, when: str) -> tuple[int, str]:
    """Send a signal to the sweep alone once it has said `when`; its exit code, and all it said.
    Nobody of its family is left then, not even a training that has just begun."""
    with log.open("w") as file:
        process = subprocess.Popen(
            words,
            cwd=ROOT,
            stdout=file,
            stderr=file,
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # & ignores it
        )
    try:
        wait_until(lambda: when in log.read_text() or process.poll() is not None, when, 120)
        wait_until(lambda: family(process.pid)[1:] or process.poll() is not None, "a command")
        assert process.poll() is None, log.read_text()
        begun = family(process.pid)[1:]
        process.send_signal(number)
        code = process.wait(timeout=60)
        wait_until(lambda: not any(map(is_at_work, begun)), "the end of all", QUICK_S)
    finally:
        for one in family(process.pid):
            one.kill()
        process.wait()
    return code, log.read_text()


@pytest.mark.slow
def test_points_that_fail_do_not_keep_the_others(swept: tuple[Path, str], tmp_path: Path) -> None:
    """A model for which clips are too long, and a codebook for which there are too few frames. What
    an earlier sweep has made stands."""
    directory = tmp_path / "copy"
    shutil.copytree(swept[0], directory)
    kept = directory / "run/models/k8-bag/model.safetensors"
    before_ns = kept.stat().st_mtime_ns
    grid = ("codebook.k=8,30000", "model=bert,bag", "models.bert.max_positions=8")
    done = run("train", "sweep", directory / "job.yaml", *grid, f"run={directory / 'run'}")
    assert done.returncode == 1
    line = last_line(done.stdout)
    assert line["failed"] == {
        "k8-bert": "fit ended with 2",
        "k30000-bert": "all ended with 2",
        "k30000-bag": "all ended with 2",
    }
    assert ["map" in point for point in line["points"]] == [False, True, False, False]
    assert line["points"][1] == last_line(swept[1])["points"][1]  # with the seconds it took then
    assert kept.stat().st_mtime_ns == before_ns
    assert "3 points of 4 failed:\n  codebook.k=8 model=bert: fit ended with 2" in done.stdout
    assert "Traceback" not in done.stderr
    assert len([text for text in done.stderr.splitlines() if text.startswith("error: ")]) == 2


def test_a_dry_run_prints_commands_that_are_valid_and_runs_none(job: Path) -> None:
    printed = succeed("train", "sweep", job, *GRID, "train.lr=0.1,0.2", "--dry-run")
    commands = [line for line in printed.splitlines() if not line.startswith("# ")]
    assert [text.split()[2:4] for text in commands[:4]] == [
        ["pipeline", "shard"],
        ["pipeline", "all"],
        ["train", "fit"],
        ["train", "eval"],
    ]
    assert len(commands) == 1 + 2 + 2 * (3 + 3)
    text = commands[2].replace("python", sys.executable, 1) + " --print-config"
    done = subprocess.run(["sh", "-c", text], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "linear-lr0_1:" in done.stdout
    assert not (job.parent / "run").exists()


def test_a_fault_of_one_point_is_found_before_the_first_step(job: Path) -> None:
    done = run("train", "sweep", job, "codebook.k=8,1", "model=bag")
    assert done.returncode == 2
    assert not done.stdout
    assert "codebook.k" in done.stderr
    assert not (job.parent / "run").exists()


# --- how commands end ---------------------------------------------------------------------------

Ends = Callable[[dict[str, int]], list[str]]


@pytest.fixture
def ends(job: Path, monkeypatch: pytest.MonkeyPatch) -> Ends:
    """Let commands end as told, by a word of theirs; returns what was run."""
    begun: list[str] = []

    def set_codes(codes: dict[str, int]) -> list[str]:
        def fake(words: Sequence[str], *, is_kept: bool) -> tuple[int, str, bool]:
            text = " ".join([*words[:2], *words[3:]])
            begun.append(text)
            said = '{"linear_map": 50.0, "prior_map": 25.0, "seconds": 9}' if is_kept else ""
            return next((code for word, code in codes.items() if word in text), 0), said, False

        monkeypatch.setattr(sweep, "command", fake)
        return begun

    return set_codes


@pytest.mark.parametrize(
    ("codes", "code", "num_begun"),
    [
        ({}, 0, 11),
        ({"pipeline shard": 3}, 3, 11),
        ({"pipeline all codebook.k=16": 3}, 3, 11),
        ({"pipeline shard": 3, "train eval": 1}, 1, 11),
        ({"pipeline shard": 2}, 1, 1),
        ({"pipeline all codebook.k=8": 1}, 1, 7),
        ({"train fit codebook.k=8 codebook.name=k8 model=bag": -9}, 1, 10),
        ({"train fit": 2}, 1, 7),
    ],
)
def test_what_a_sweep_ends_with(
    codes: dict[str, int], code: int, num_begun: int, job: Path, ends: Ends
) -> None:
    begun = ends(codes)
    assert sweep.run(job, GRID, is_dry=False) == code
    begun = [text for text in begun if not text.startswith("train compare")]
    assert len(begun) == num_begun


def test_a_command_that_is_preempted_ends_the_sweep(job: Path, ends: Ends) -> None:
    begun = ends({"train fit": 75})
    with pytest.raises(Preempted, match="codebook.k=8 model=linear: fit; the same command goes on"):
        sweep.run(job, GRID, is_dry=False)
    assert len(begun) == 3


def test_two_sweeps_never_meet_in_a_run(job: Path) -> None:
    with hold(job.parent / "run/sweep.lock"):
        done = run("train", "sweep", job, *GRID)
    assert done.returncode == 1
    assert f"pid {os.getpid()} on " in done.stderr
