"""SIGKILL any verb at seeded moments, type it again: the same files as an undisturbed run."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.numpy import load

from pipeline.multi_codebook import Training
from pipeline.synth import write_set
from pipeline.workplace import STAMP_BYTES
from tests.commands import (
    command,
    data_files,
    kill_when,
    partial_files,
    run,
    succeed,
    write_config,
)
from tests.conftest import tiny_tree

NUM_KILLS = 3  # `make torture` has hundreds
NUM_SHARDS = 16
NUM_STEPS = 48
SEED = 20


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a run that nothing disturbed; copies of it differ in `run` only."""
    directory = tmp_path_factory.mktemp("kills")
    write_set(directory / "clips", 96, seed=3, seconds=3.0)
    tree = tiny_tree(directory / "clips", directory / "undisturbed")
    tree["shards"] = {"min_shards": NUM_SHARDS}
    tree["cluster"] = {"kind": "local", "workers": 2}
    tree["codebook"] = {"k": 64, "passes": 30, "device": "cpu"}
    tree["models"]["bert"]["max_positions"] = 160
    tree["model"] = ["bert"]
    tree["train"] |= {"epochs": 10, "checkpoint_every_steps": 4}
    config = write_config(directory / "config.yaml", tree)
    succeed("pipeline", "all", config)
    succeed("train", "fit", config)
    return config


@pytest.fixture(scope="module")
def disturbed(undisturbed: Path) -> Path:
    """Where the killed run lives; the tests below go through its stages in order."""
    return undisturbed.parent / "disturbed"


def seeded_moments(salt: str, below: int) -> list[int]:
    """NUM_KILLS rising counts in [1, below)."""
    return sorted(random.Random(f"{SEED} {salt}").sample(range(1, below), NUM_KILLS))


def kill_and_finish(
    package: str, verb: str, config: Path, target: Path, moments: Iterator[Callable[[], bool]]
) -> int:
    """Kill the verb at each moment, then let it end; returns in how many kills it was alive."""
    override = f"run={target}"
    words = command(package, verb, config, override)
    alive = sum(kill_when(words, moment) for moment in moments)
    succeed(package, verb, config, override)
    return alive


def count(directory: Path, pattern: str) -> int:
    return len(list(directory.glob(pattern)))


def stage_moments(commits: Path, partial: Path, salt: str) -> Iterator[Callable[[], bool]]:
    """Moments of a sharded stage: after n commits, and with a file in the making after them."""
    for number, least in enumerate(seeded_moments(salt, NUM_SHARDS - 4)):

        def is_time(least: int = least, wants_partial: bool = number % 2 == 0) -> bool:
            if count(commits, "[0-9]*.json") < least:
                return False
            return bool(partial_files(partial)) or not wants_partial

        yield is_time


@pytest.mark.slow
def test_shard(undisturbed: Path, disturbed: Path) -> None:
    partial, with_partial = disturbed / "partial", 0
    moments = stage_moments(disturbed / "commits/shard/default", partial, "shard")
    words = command("pipeline", "shard", undisturbed, f"run={disturbed}")
    for moment in moments:
        assert kill_when(words, moment), "the command ended before it could be killed"
        with_partial += bool(partial_files(partial))
    assert with_partial, "no kill left a partial file"
    succeed("pipeline", "shard", undisturbed, f"run={disturbed}")
    assert data_files(disturbed) == only(undisturbed, "codebook", "token", "fit")


@pytest.mark.slow
def test_codebook(undisturbed: Path, disturbed: Path) -> None:
    """Killed while it draws, and after steps of the training; what is drawn is not drawn again."""
    work = disturbed / "codebooks/default/work"

    def steps() -> int:
        try:
            data = (work / "step").read_bytes()
        except FileNotFoundError:
            return -1
        return Training.resumed(load(data[STAMP_BYTES:])).step

    drawn = [lambda: count(work, "draw-*") >= NUM_SHARDS // 2]
    trained = [lambda n=n: steps() >= n for n in (0, 3)]
    moments = iter([*drawn, *trained])
    assert kill_and_finish("pipeline", "codebook", undisturbed, disturbed, moments) == NUM_KILLS
    assert data_files(disturbed) == only(undisturbed, "token", "fit")
    assert not work.exists()


@pytest.mark.slow
def test_tokenize(undisturbed: Path, disturbed: Path) -> None:
    commits = disturbed / "commits/tokenize/default"
    moments = stage_moments(commits, disturbed / "partial", "tokenize")
    assert kill_and_finish("pipeline", "tokenize", undisturbed, disturbed, moments) == NUM_KILLS
    assert data_files(disturbed) == only(undisturbed, "fit")


@pytest.mark.slow
def test_fit(undisturbed: Path, disturbed: Path) -> None:
    model = disturbed / "models/bert"

    def moment(least: int, wants_partial: bool) -> Callable[[], bool]:
        def is_time() -> bool:
            names = [path.name for path in model.glob("checkpoints/step-*")]
            if max([int(name[5:]) for name in names], default=0) < least:
                return False
            return not wants_partial or bool(partial_files(model / "partial"))

        return is_time

    steps = seeded_moments("fit", NUM_STEPS - 12)
    moments = iter([moment(least, n % 2 == 0) for n, least in enumerate(steps)])
    assert kill_and_finish("train", "fit", undisturbed, disturbed, moments) == NUM_KILLS
    assert data_files(disturbed) == data_files(undisturbed.parent / "undisturbed")
    weights = "models/bert/model.safetensors"
    mine, theirs = disturbed / weights, undisturbed.parent / "undisturbed" / weights
    assert mine.read_bytes() == theirs.read_bytes()


@pytest.mark.slow
def test_a_second_run_says_that_nothing_is_to_do(undisturbed: Path) -> None:
    before = data_files(undisturbed.parent / "undisturbed")
    for package, verb in (
        ("pipeline", "shard"),
        ("pipeline", "codebook"),
        ("pipeline", "tokenize"),
        ("train", "fit"),
    ):
        done = run(package, verb, undisturbed)
        assert done.returncode == 0
        assert "nothing to do" in done.stdout
    assert data_files(undisturbed.parent / "undisturbed") == before


def only(config: Path, *without: str) -> dict[str, str]:
    """The undisturbed run's data files but for those of later stages."""
    files = data_files(config.parent / "undisturbed")
    later = {
        "codebook": ("codebooks/", "commits/codebook/"),
        "token": ("tokens/", "commits/tokenize/", "seals/tokenize"),
        "fit": ("commits/fit/",),
    }
    prefixes = tuple(prefix for stage in without for prefix in later[stage])
    return {path: sha for path, sha in files.items() if not path.startswith(prefixes)}
