"""Checkpoints: directories that appear whole, and the newest of them found after any kill.

`checkpoints/step-000120/` holds model.safetensors, optimizer.safetensors and state.json; it is
written under `partial/`, synced and renamed, so a directory with that name is complete. No
pickle is read or written.
"""

from __future__ import annotations

import errno
import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from configs.console import say
from configs.errors import IntegrityError
from shards.atomic import Attempt, sha256_file
from shards.commit import canonical_json, fingerprint
from shards.stream.sampler import Cursor

_STEP_NAME = re.compile(r"step-(\d{6,})")


def save(
    directory: Path,
    partial: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    cursor: Cursor,
    stamp: str,
) -> None:
    """Write the checkpoint of a step, unless it stands; it exists from the rename on. `stamp` is
    the fingerprint of the recipe that it is trained under."""
    final = directory / f"step-{step:06d}"
    if final.exists():
        return
    with Attempt(partial, f"step-{step}") as attempt:
        attempt.path("checkpoint").mkdir()
        tensors = {
            "model.safetensors": _contiguous(model.state_dict()),
            "optimizer.safetensors": _optimizer_tensors(model, optimizer),
        }
        for name, named in tensors.items():
            write_tensors(named, attempt.path(f"checkpoint/{name}"))
        hashes = {name: sha256_file(attempt.path(f"checkpoint/{name}")) for name in tensors}
        state = {"step": step, "fingerprint": stamp, "cursor": cursor.to_json(), "sha256": hashes}
        attempt.path("checkpoint/state.json").write_bytes(canonical_json(_signed(state)))
        attempt.publish_directory("checkpoint", final)


def write_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """A safetensors file; raises OSError where it cannot be written, as on a full disk."""
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        raise OSError(errno.EIO, str(error), str(path)) from None


def newest(directory: Path, partial: Path) -> Path | None:
    """The checkpoint of the highest step that is whole. Damaged ones above it are named and
    removed: they would stand where a whole one has to come."""
    for path in sorted(_all(directory), key=_step_of, reverse=True):
        if _read_state(path) is not None:
            return path
        say(f"warning: {path} is damaged and removed")
        _remove(path, partial)
    return None


def _signed(state: dict[str, Any]) -> dict[str, Any]:
    return {**state, "state_sha256": fingerprint(state)}


def _read_state(path: Path) -> dict[str, Any] | None:
    """The checkpoint's state, None where it or a file that it names is not as it was written."""
    try:
        state: dict[str, Any] = json.loads((path / "state.json").read_bytes())
        signature = state.pop("state_sha256")
        is_whole = signature == fingerprint(state) and all(
            sha256_file(path / name) == sha256 for name, sha256 in state["sha256"].items()
        )
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None
    return state if is_whole else None


def restore(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, stamp: str
) -> tuple[int, Cursor]:
    """Load a checkpoint into model and optimizer; returns its step and cursor. Raises
    IntegrityError where it is damaged, or was trained under another fingerprint than `stamp`."""
    state = _read_state(path)
    if state is None:
        raise IntegrityError(f"{path} is damaged: delete it, and the one before it is taken")
    if state["fingerprint"] != stamp:
        raise IntegrityError(f"{path} is of another training: remove it, or all of {path.parent}")
    model.load_state_dict(load_file(path / "model.safetensors"))
    _load_optimizer(model, optimizer, load_file(path / "optimizer.safetensors"))
    return state["step"], Cursor.from_json(state["cursor"])


def keep_last(directory: Path, partial: Path, count: int) -> None:
    """Remove all but the newest `count` checkpoints; each goes whole, by a rename."""
    for path in sorted(_all(directory), key=_step_of)[:-count]:
        _remove(path, partial)


def _remove(path: Path, partial: Path) -> None:
    """Whole, by a rename: a kill leaves no half of it."""
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
