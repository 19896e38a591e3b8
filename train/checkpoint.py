"""Checkpoints: directories that appear whole, and the newest of them found after any kill.

`checkpoints/step-000120/` holds model.safetensors, optimizer.safetensors and state.json; it is
written under `partial/`, synced and renamed, so a directory with that name is complete. No
pickle is read or written.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from configs.errors import RecipeMismatch
from shards.atomic import Attempt

_STEP_NAME = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class Cursor:
    """Where a stream of examples stands: position p is example p % n of epoch p // n."""

    fingerprint: str  # of the sealed token set
    seed: int
    position: int
    mode: str = "global"


def save(
    directory: Path,
    partial: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    cursor: Cursor,
    recipe: str,
) -> None:
    """Write the checkpoint of a step, unless it stands; it exists from the rename on."""
    final = directory / f"step-{step:06d}"
    if final.exists():
        return
    with Attempt(partial, f"step-{step}") as attempt:
        attempt.path("checkpoint").mkdir()
        save_file(_contiguous(model.state_dict()), attempt.path("checkpoint/model.safetensors"))
        tensors = _optimizer_tensors(model, optimizer)
        save_file(tensors, attempt.path("checkpoint/optimizer.safetensors"))
        state = {"step": step, "recipe": recipe, "cursor": vars(cursor)}
        attempt.path("checkpoint/state.json").write_text(json.dumps(state, indent=2) + "\n")
        attempt.publish_directory("checkpoint", final)


def newest(directory: Path) -> Path | None:
    """The complete checkpoint of the highest step."""
    return max(_all(directory), key=_step_of, default=None)


def restore(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, recipe: str
) -> tuple[int, Cursor]:
    """Load a checkpoint into model and optimizer; returns its step and cursor."""
    state = json.loads((path / "state.json").read_text())
    if state["recipe"] != recipe:
        raise RecipeMismatch(str(path), ["the recipe of the run"], f"Remove {path.parent} to start")
    model.load_state_dict(load_file(path / "model.safetensors"))
    _load_optimizer(model, optimizer, load_file(path / "optimizer.safetensors"))
    return state["step"], Cursor(**state["cursor"])


def keep_last(directory: Path, partial: Path, count: int) -> None:
    """Remove all but the newest `count` checkpoints; each goes whole, by a rename."""
    for path in sorted(_all(directory), key=_step_of)[:-count]:
        with Attempt(partial, "old") as attempt:
            path.rename(attempt.path(path.name))


def _all(directory: Path) -> list[Path]:
    paths = directory.iterdir() if directory.is_dir() else []
    return [path for path in paths if _STEP_NAME.fullmatch(path.name)]


def _step_of(path: Path) -> int:
    match = _STEP_NAME.fullmatch(path.name)
    assert match is not None
    return int(match.group(1))


def _contiguous(tensors: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _optimizer_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, torch.Tensor]:
    """AdamW's tensors under their parameter's name, as `head.weight/exp_avg`."""
    return _contiguous(
        {
            f"{name}/{key}": value
            for name, parameter in model.named_parameters()
            for key, value in optimizer.state[parameter].items()
        }
    )


def _load_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]
) -> None:
    parameters = dict(model.named_parameters())
    for full_name, tensor in tensors.items():
        name, key = full_name.rsplit("/", 1)
        parameter = parameters[name]
        optimizer.state[parameter][key] = tensor.to(parameter.device)
