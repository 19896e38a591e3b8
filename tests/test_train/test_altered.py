"""Checkpoints and scores that were altered are left out, not used."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from configs.errors import IntegrityError
from shards.stream.stream import Cursor
from train import checkpoint
from train.learner import Learner
from train.ranks import Ranks

RECIPE = "r" * 64


def saved(directory: Path, *steps: int) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    for step in steps:
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        place, partial = directory / "checkpoints", directory / "partial"
        state = checkpoint.State(step, RECIPE, Cursor("f", 0, "global", 0, step))
        learner, ranks = Learner(model, optimizer), Ranks(torch.device("cpu"))
        checkpoint.save(place, partial, learner, state, ranks)
    return model


def test_a_damaged_checkpoint_makes_room_for_a_whole_one(tmp_path: Path) -> None:
    """Else `saved step 4` would be a lie, and the last whole one could go."""
    saved(tmp_path, 2, 4)
    places, partial = tmp_path / "checkpoints", tmp_path / "partial"
    (places / "step-000004/state.json").write_bytes(b"{}")
    assert checkpoint.newest(places, partial) == places / "step-000002"
    assert not (places / "step-000004").exists()
    saved(tmp_path, 4)
    checkpoint.keep_last(places, partial, 1)
    assert checkpoint.newest(places, partial) == places / "step-000004"
    assert not list(partial.iterdir())


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "remove", "older"])
def test_a_damaged_checkpoint_is_passed_over(
    tmp_path: Path, name: str, harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path, 2, 4)
    places = tmp_path / "checkpoints"
    assert checkpoint.newest(places, tmp_path / "partial") == places / "step-000004"
    path = places / "step-000004" / name
    data = path.read_bytes()
    middle = len(data) // 2
    match harm:
        case "flip":
            path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
        case "cut":
            path.write_bytes(data[:-5])
        case "empty":
            path.write_bytes(b"")
        case "remove":
            path.unlink()
        case "older":
            path.write_bytes((places / "step-000002" / name).read_bytes())
    if harm == "older" and name == "state.json":
        assert checkpoint.newest(places, tmp_path / "partial") == places / "step-000002"
        return
    assert not checkpoint.is_whole(places / "step-000004")
    assert checkpoint.newest(places, tmp_path / "partial") == places / "step-000002"
    assert "step-000004 is damaged" in capsys.readouterr().out
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(IntegrityError, match="step-000004 cannot be loaded"):
        checkpoint.restore(places / "step-000004", Learner(model, optimizer))


def test_a_full_disk_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="step"):
        checkpoint.write_tensors({"a": torch.ones(2)}, tmp_path / "no" / "step.safetensors")
