"""Checkpoints: whole or absent, the newest found, of this training only."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import distributed, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.fsdp import fully_shard

from configs.errors import IntegrityError
from shards.stream.sampler import Cursor
from shards.stream.schedule import World
from train import checkpoint
from train.checkpoint import State
from train.learner import Average, Learner
from train.optim import build_optimizer
from train.ranks import Ranks

ALONE = Ranks(torch.device("cpu"))
CURSOR = Cursor("tokens", seed=3, mode="global", epoch=1, position=40)
SCORES = {4: 0.1, 8: 1 / 3, 12: 0.1 + 0.2}


class Made:
    """A small model with an optimizer that has taken some steps."""

    def __init__(self, seed: int, steps: int = 3) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 2))
        self.optimizer = build_optimizer(self.model, 0.1, 0.05)
        self.learner = Learner(self.model, self.optimizer, Average(self.model, 0.9))
        for _ in range(steps):
            self.step()

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.model(torch.arange(5)).square().sum().backward()
        self.optimizer.step()
        self.learner.average.update(1)

    def save(self, directory: Path, step: int) -> None:
        partial, state = directory.parent / "partial", State(step, "stamp", CURSOR, SCORES)
        checkpoint.save(directory, partial, self.learner, state, ALONE)

    def resume(self, directory: Path, stamp: str = "stamp") -> State:
        found = checkpoint.open_newest(directory, directory.parent / "partial", stamp, ALONE)
        assert found is not None
        path, state = found
        checkpoint.restore(path, self.learner)
        return state

    def equals(self, other: Made) -> bool:
        pairs = zip(self.weights(), other.weights(), strict=True)
        return all(torch.equal(mine, theirs) for mine, theirs in pairs)

    def weights(self) -> list[torch.Tensor]:
        assert self.learner.average is not None
        return [*self.model.parameters(), *self.learner.average.tensors.values()]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


def test_what_cannot_be_read_now_is_not_removed(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is away for a moment damages nothing."""

    def away(path: Path) -> str:
        raise OSError(errno.EIO, "Input/output error", str(path))

    Made(0).save(directory, 12)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "sha256_file", away)
        with pytest.raises(OSError, match="Input/output error"):
            Made(1).resume(directory)
    assert Made(1).resume(directory).step == 12


@pytest.mark.parametrize("fresh", [Made(1, steps=0), Made(2, steps=5)], ids=["fresh", "used"])
def test_what_is_restored_goes_on_bit_for_bit(fresh: Made, directory: Path) -> None:
    saved = Made(0)
    saved.save(directory, 12)
    state = fresh.resume(directory)
    assert state == State(12, "stamp", CURSOR, SCORES)
    assert [*state.scores.items()] == [*SCORES.items()], "of equal scores the first counts"
    for _ in range(3):
        assert fresh.equals(saved)
        fresh.step()
        saved.step()


def test_the_newest_is_the_highest_step(directory: Path) -> None:
    assert checkpoint.newest(directory, directory.parent / "partial") is None
    for step in (9, 1_000_000, 200):
        Made(0).save(directory, step)
    assert checkpoint.newest(directory, directory.parent / "partial") == directory / "step-1000000"


def test_what_others_left_in_a_checkpoint_is_not_read(directory: Path) -> None:
    saved, older = Made(0), Made(5)
    saved.save(directory, 12)
    older.save(directory, 9)
    there = directory / "step-000012"
    shutil.copy(directory / "step-000009/model.safetensors", there / "zzz.safetensors")
    (there / "._model.safetensors").write_bytes(b"of another system")
    fresh = Made(1)
    assert fresh.resume(directory).step == 12
    assert fresh.equals(saved)


def test_one_under_the_name_of_another_step_is_none(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = Made(0)
    saved.save(directory, 12)
    shutil.copytree(directory / "step-000012", directory / "step-000020")
    (directory / "step-000030").write_text("a file")
    fresh = Made(1)
    assert fresh.resume(directory).step == 12
    assert fresh.equals(saved)
    assert sorted(path.name for path in directory.iterdir()) == ["step-000012"]
    assert capsys.readouterr().out.count("is damaged and removed") == 2


def test_only_the_last_are_kept(directory: Path) -> None:
    for step in (1, 2, 1_000_000, 999_999):
        Made(0).save(directory, step)
    checkpoint.keep_last(directory, directory.parent / "partial", 2)
    assert sorted(path.name for path in directory.iterdir()) == ["step-1000000", "step-999999"]
    checkpoint.keep_last(directory, directory.parent / "partial", 1)
    assert checkpoint.newest(directory, directory.parent / "partial") == directory / "step-1000000"


def test_the_best_is_kept_beside_the_last(directory: Path) -> None:
    """And that which was the best before, as long as a checkpoint that wants it."""
    partial = directory.parent / "partial"
    for step in (1, 2, 3, 4):
        Made(0).save(directory, step)
    best = {2: 2, 3: 2, 4: 4}
    checkpoint.keep_last(directory, partial, 2, best.get)
    kept = ["step-000002", "step-000003", "step-000004"]
    assert sorted(path.name for path in directory.iterdir()) == kept
    checkpoint.keep_last(directory, partial, 1, {4: 2}.get)
    assert sorted(path.name for path in directory.iterdir()) == ["step-000002", "step-000004"]


def test_a_partial_one_does_not_exist(directory: Path) -> None:
    """What a kill inside `save` leaves is under partial/, never under a checkpoint's name."""
    Made(0).save(directory, 5)
    left = directory.parent / "partial" / "step-9-0123" / "checkpoint"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    (directory / "step-000009.partial").mkdir()
    assert checkpoint.newest(directory, directory.parent / "partial") == directory / "step-000005"


@pytest.mark.parametrize("doomed", ["save_file", "sha256_file"])
def test_a_failure_inside_save_leaves_nothing(
    doomed: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, doomed, fail)
    with pytest.raises(OSError, match="No space"):
        Made(0).save(directory, 5)
    assert checkpoint.newest(directory, directory.parent / "partial") is None
    assert not list((directory.parent / "partial").iterdir())


def test_a_step_is_saved_once(directory: Path) -> None:
    first = Made(0)
    first.save(directory, 5)
    Made(7).save(directory, 5)
    again = Made(1)
    again.resume(directory)
    assert again.equals(first)


def test_the_checkpoint_of_another_training_is_refused(directory: Path) -> None:
    Made(0).save(directory, 5)
    untouched, loaded = Made(4), Made(4)
    with pytest.raises(IntegrityError, match="step-000005"):
        loaded.resume(directory, stamp="another")
    assert loaded.equals(untouched)


def test_files_are_safetensors_and_json(directory: Path) -> None:
    Made(0).save(directory, 5)
    names = sorted(path.name for path in (directory / "step-000005").iterdir())
    files = ["average.safetensors", "model.safetensors", "optimizer.safetensors", "state.json"]
    assert names == files


@dataclass(frozen=True)
class Second(Ranks):
    """Rank 1 of 2, which hears what rank 0 has said."""

    said: str = ""

    def told(self, text: str) -> str:
        assert not text
        return self.said


def test_one_rank_checks_for_all(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Made(0).save(directory, 5)
    partial, said = directory.parent / "partial", []

    def told(_: Ranks, text: str) -> str:
        said.append(text)
        return text

    with monkeypatch.context() as patch:
        patch.setattr(Ranks, "told", told)
        first = checkpoint.open_newest(directory, partial, "stamp", ALONE)
    monkeypatch.setattr(checkpoint, "sha256_file", lambda _: pytest.fail("read once more"))
    second = Second(torch.device("cpu"), World(1, 2), said[0])
    assert checkpoint.open_newest(directory, partial, "stamp", second) == first
    with pytest.raises(IntegrityError, match="step-000005 is of another training"):
        checkpoint.open_newest(directory, partial, "another", second)


@pytest.fixture
def sharded() -> Iterator[Learner]:
    """What FSDP2 makes of a model, by itself."""
    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    model = fully_shard(nn.Linear(4, 2))
    learner = Learner(model, build_optimizer(model, 0.1, 0.05))
    learner.allocate()
    yield learner
    distributed.destroy_process_group()


@pytest.mark.parametrize(
    "fault", [OSError(28, "No space left on device"), SafetensorError("No space left on device")]
)
def test_a_full_disk_is_an_os_error_of_shards_too(
    fault: Exception, sharded: Learner, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch tells of it by an error that no `except Exception` sees."""

    def fail(*_: object) -> None:
        raise fault

    partial, state = directory.parent / "partial", State(5, "stamp", CURSOR)
    with monkeypatch.context() as patch:
        patch.setattr(HuggingFaceStorageWriter, "write_data", fail)
        with pytest.raises(OSError, match="No space left on device"):
            checkpoint.save(directory, partial, sharded, state, ALONE)
    assert not list(partial.iterdir())
    checkpoint.save(directory, partial, sharded, state, ALONE)
    assert checkpoint.newest(directory, partial) == directory / "step-000005"


def test_what_cannot_be_loaded_is_no_traceback(sharded: Learner, directory: Path) -> None:
    partial, state = directory.parent / "partial", State(5, "stamp", CURSOR)
    checkpoint.save(directory, partial, sharded, state, ALONE)
    path = directory / "step-000005"
    checkpoint.restore(path, sharded)
    for file in path.glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(IntegrityError, match="step-000005 cannot be loaded"):
        checkpoint.restore(path, sharded)
