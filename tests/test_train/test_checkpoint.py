"""Checkpoints: whole or absent, the newest found, of this training only."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from configs.errors import IntegrityError
from shards.stream.sampler import Cursor
from train import checkpoint
from train.learner import Average, Learner
from train.optim import build_optimizer
from train.ranks import Ranks

ALONE = Ranks(torch.device("cpu"))
CURSOR = Cursor("tokens", seed=3, mode="global", epoch=1, position=40)


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
        partial = directory.parent / "partial"
        checkpoint.save(directory, partial, step, self.learner, CURSOR, "stamp", ALONE)

    def restore(self, path: Path, stamp: str = "stamp") -> tuple[int, Cursor]:
        return checkpoint.restore(path, self.learner, stamp)

    def equals(self, other: Made) -> bool:
        pairs = zip(self.weights(), other.weights(), strict=True)
        return all(torch.equal(mine, theirs) for mine, theirs in pairs)

    def weights(self) -> list[torch.Tensor]:
        assert self.learner.average is not None
        return [*self.model.parameters(), *self.learner.average.tensors.values()]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


@pytest.mark.parametrize("fresh", [Made(1, steps=0), Made(2, steps=5)], ids=["fresh", "used"])
def test_what_is_restored_goes_on_bit_for_bit(fresh: Made, directory: Path) -> None:
    saved = Made(0)
    saved.save(directory, 12)
    path = checkpoint.newest(directory, directory.parent / "partial")
    assert path is not None
    assert fresh.restore(path) == (12, CURSOR)
    for _ in range(3):
        assert fresh.equals(saved)
        fresh.step()
        saved.step()


def test_the_newest_is_the_highest_step(directory: Path) -> None:
    assert checkpoint.newest(directory, directory.parent / "partial") is None
    for step in (9, 1_000_000, 200):
        Made(0).save(directory, step)
    assert checkpoint.newest(directory, directory.parent / "partial") == directory / "step-1000000"


def test_only_the_last_are_kept(directory: Path) -> None:
    for step in (1, 2, 1_000_000, 999_999):
        Made(0).save(directory, step)
    checkpoint.keep_last(directory, directory.parent / "partial", 2)
    assert sorted(path.name for path in directory.iterdir()) == ["step-1000000", "step-999999"]
    checkpoint.keep_last(directory, directory.parent / "partial", 1)
    assert checkpoint.newest(directory, directory.parent / "partial") == directory / "step-1000000"


def test_the_best_is_kept_beside_the_last(directory: Path) -> None:
    for step in (1, 2, 3, 4):
        Made(0).save(directory, step)
    checkpoint.keep_last(directory, directory.parent / "partial", 1, best=2)
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
    again.restore(directory / "step-000005")
    assert again.equals(first)


def test_the_checkpoint_of_another_training_is_refused(directory: Path) -> None:
    Made(0).save(directory, 5)
    untouched, loaded = Made(4), Made(4)
    with pytest.raises(IntegrityError, match="step-000005"):
        loaded.restore(directory / "step-000005", stamp="another")
    assert loaded.equals(untouched)


def test_files_are_safetensors_and_json(directory: Path) -> None:
    Made(0).save(directory, 5)
    names = sorted(path.name for path in (directory / "step-000005").iterdir())
    files = ["average.safetensors", "model.safetensors", "optimizer.safetensors", "state.json"]
    assert names == files
