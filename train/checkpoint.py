"""Checkpoints: directories that appear whole, and the newest of them found after any kill.

`checkpoints/step-000120/` holds state.json and safetensors: model, optimizer and, where there is
one, the average of the weights; or, of a model of which ranks hold shards, a file from each rank
(torch's distributed checkpoint). It is written under `partial/`, synced and renamed, so a directory
with that name is complete. Either kind goes on with any number of ranks. No pickle is read or
written.
"""

from __future__ import annotations

import errno
import json
import re
import warnings
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import distributed
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save as save_shards
from torch.distributed.tensor import DTensor

from configs.console import say
from configs.errors import IntegrityError
from shards.atomic import Attempt, sha256_file
from shards.commit import canonical_json, fingerprint
from shards.stream.sampler import Cursor
from train.learner import Learner, Tensors
from train.ranks import Ranks

_STEP_NAME = re.compile(r"step-(\d{6,})")


def save(
    directory: Path,
    partial: Path,
    step: int,
    learner: Learner,
    cursor: Cursor,
    stamp: str,
    ranks: Ranks,
) -> None:
    """Write the checkpoint of a step, unless it stands; it exists from the rename on. All ranks
    call it. `stamp` is the fingerprint of the recipe that it is trained under."""
    final = directory / name_of(step)
    if ranks.any(ranks.is_first and final.exists()):
        return
    with Attempt(partial, f"step-{step}") as attempt:
        attempt.path("checkpoint").mkdir()
        _write(learner.files(), attempt.path("checkpoint"), ranks)
        if ranks.is_first:
            paths = sorted(attempt.path("checkpoint").iterdir())
            hashes = {path.name: sha256_file(path) for path in paths}
            state = {"step": step, "fingerprint": stamp, "cursor": cursor.to_json()}
            signed = _signed({**state, "sha256": hashes})
            attempt.path("checkpoint/state.json").write_bytes(canonical_json(signed))
            attempt.publish_directory("checkpoint", final)


def _write(files: dict[str, Tensors], place: Path, ranks: Ranks) -> None:
    named = {name: tensor for tensors in files.values() for name, tensor in tensors.items()}
    if any(isinstance(tensor, DTensor) for tensor in named.values()):
        place = Path(ranks.told(str(place)))
        writer = HuggingFaceStorageWriter(str(place), save_distributed=True)
        save_shards(named, storage_writer=writer)
    elif ranks.is_first:
        for name, tensors in files.items():
            write_tensors(_contiguous(tensors), place / f"{name}.safetensors")


def write_tensors(tensors: Tensors, path: Path) -> None:
    """A safetensors file; raises OSError where it cannot be written, as on a full disk."""
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        raise OSError(errno.EIO, str(error), str(path)) from None


def newest(directory: Path, partial: Path) -> Path | None:
    """The checkpoint of the highest step that is whole. Damaged ones above it are named and
    removed: they would stand where a whole one has to come."""
    for path in sorted(_all(directory), key=step_of, reverse=True):
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


def restore(path: Path, learner: Learner, stamp: str) -> tuple[int, Cursor]:
    """Load a checkpoint; returns its step and cursor. Raises IntegrityError where it is damaged, or
    was trained under another fingerprint than `stamp`."""
    state = _read_state(path)
    if state is None:
        raise IntegrityError(f"{path} is damaged: delete it, and the one before it is taken")
    if state["fingerprint"] != stamp:
        raise IntegrityError(f"{path} is of another training: remove it, or all of {path.parent}")
    learner.allocate()
    named = {name: tensor for part in learner.files().values() for name, tensor in part.items()}
    is_alone = not distributed.is_initialized()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # as we say ourselves
        load(named, storage_reader=HuggingFaceStorageReader(str(path)), no_dist=is_alone)
    return state["step"], Cursor.from_json(state["cursor"])


def keep_last(directory: Path, partial: Path, count: int, best: int | None = None) -> None:
    """Remove all but the newest `count` checkpoints, and that of the step that is the best; each
    goes whole, by a rename."""
    for path in sorted(_all(directory), key=step_of)[:-count]:
        if step_of(path) != best:
            _remove(path, partial)


def _remove(path: Path, partial: Path) -> None:
    """Whole, by a rename: a kill leaves no half of it."""
    with Attempt(partial, "old") as attempt:
        path.rename(attempt.path(path.name))


def _all(directory: Path) -> list[Path]:
    paths = directory.iterdir() if directory.is_dir() else []
    return [path for path in paths if _STEP_NAME.fullmatch(path.name)]


def name_of(step: int) -> str:
    return f"step-{step:06d}"


def step_of(path: Path) -> int:
    match = _STEP_NAME.fullmatch(path.name)
    assert match is not None
    return int(match.group(1))


def _contiguous(tensors: Tensors) -> Tensors:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
