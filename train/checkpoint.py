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
import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import distributed
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystem
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


@dataclass(frozen=True)
class State:
    """What a checkpoint says beside its tensors; `fingerprint` is that of the recipe that it is
    trained under, `scores` are those of validations so far, by their steps."""

    step: int
    fingerprint: str
    cursor: Cursor
    scores: dict[int, float] = field(default_factory=dict)

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> Self:
        cursor, scores = Cursor.from_json(tree["cursor"]), dict(tree["scores"])
        return cls(tree["step"], tree["fingerprint"], cursor, scores)

    def to_json(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "fingerprint": self.fingerprint,
            "cursor": self.cursor.to_json(),
            "scores": [[step, score] for step, score in self.scores.items()],
        }


def save(directory: Path, partial: Path, learner: Learner, state: State, ranks: Ranks) -> None:
    """Write the checkpoint of a step, unless it stands; it exists from the rename on. All ranks
    call it. Raises OSError where it cannot be written, as on a full disk."""
    final = directory / name_of(state.step)
    if ranks.any(ranks.is_first and final.exists()):
        return
    with Attempt(partial, final.name) as attempt:
        attempt.path("checkpoint").mkdir()
        _write(learner.files(), attempt.path("checkpoint"), ranks)
        if ranks.is_first:
            paths = sorted(attempt.path("checkpoint").iterdir())
            hashes = {path.name: sha256_file(path) for path in paths}
            signed = _signed({**state.to_json(), "sha256": hashes})
            attempt.path("checkpoint/state.json").write_bytes(canonical_json(signed))
            attempt.publish_directory("checkpoint", final)


def _write(files: dict[str, Tensors], place: Path, ranks: Ranks) -> None:
    named = {name: tensor for tensors in files.values() for name, tensor in tensors.items()}
    if any(isinstance(tensor, DTensor) for tensor in named.values()):
        place = Path(ranks.told(str(place)))
        writer = HuggingFaceStorageWriter(str(place), save_distributed=True)
        try:
            save_shards(named, storage_writer=writer)
        except CheckpointException as error:
            met = _met(error)
            is_told = isinstance(met, OSError)
            raise met if is_told else OSError(errno.EIO, str(met), str(place)) from None
    elif ranks.is_first:
        for name, tensors in files.items():
            write_tensors(_contiguous(tensors), place / f"{name}.safetensors")


def _met(error: CheckpointException) -> BaseException:
    """What a rank met: torch tells of it by an error that is no Exception."""
    causes = [cause for cause, _ in error.failures.values()]
    return next((cause for cause in causes if isinstance(cause, OSError)), causes[0])


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
        if is_whole(path):
            return path
        say(f"warning: {path} is damaged and removed")
        _remove(path, partial)
    return None


def open_newest(
    directory: Path, partial: Path, recipe: str, ranks: Ranks
) -> tuple[Path, State] | None:
    """The newest one and what it says, on every rank: rank 0 looks, and tells the others. Raises
    IntegrityError where it was trained under a recipe of another fingerprint."""
    path = newest(directory, partial) if ranks.is_first else None
    text = ranks.told("" if path is None else json.dumps([str(path), _read_state(path)]))
    if not text:
        return None
    where, tree = json.loads(text)
    if tree["fingerprint"] != recipe:
        raise IntegrityError(f"{where} is of another training: remove it, or all of {directory}")
    return Path(where), State.from_json(tree)


def is_whole(path: Path) -> bool:
    """Whether all of a checkpoint is as it was written, and where. Raises OSError where that cannot
    be told, as on a disk that is away: what cannot be read may be whole."""
    state = _read_state(path)
    if state is None or state["step"] != step_of(path):
        return False
    try:
        return all(sha256_file(path / name) == sha256 for name, sha256 in state["sha256"].items())
    except FileNotFoundError:
        return False


def _signed(state: dict[str, Any]) -> dict[str, Any]:
    return {**state, "state_sha256": fingerprint(state)}


def _read_state(path: Path) -> dict[str, Any] | None:
    """What state.json holds, None where that is gone, or not as it was written."""
    try:
        state: dict[str, Any] = json.loads((path / "state.json").read_bytes())
        return state if state.pop("state_sha256") == fingerprint(state) else None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, AttributeError, TypeError):
        return None


class _Signed(FileSystem):
    """A directory that holds the files of its state.json, and nothing else: what others left there
    would be read in their place."""

    def ls(self, path: str | os.PathLike[str]) -> list[str]:
        state = _read_state(Path(path))
        return [str(Path(path, name)) for name in (state or {"sha256": {}})["sha256"]]


def restore(path: Path, learner: Learner) -> None:
    """Load the tensors of a whole checkpoint; all ranks call it. Raises IntegrityError on all of
    them where one cannot."""
    learner.allocate()
    named = {name: tensor for part in learner.files().values() for name, tensor in part.items()}
    is_alone = not distributed.is_initialized()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # as we say ourselves
        reader = HuggingFaceStorageReader(str(path))
        reader.fs = _Signed()
        try:
            load(named, storage_reader=reader, no_dist=is_alone)
        except CheckpointException as error:
            raise IntegrityError(
                f"{path} cannot be loaded ({_met(error)}): where every rank sees it, delete it, "
                "and the one before it is taken"
            ) from None


def keep_last(
    directory: Path, partial: Path, count: int, best_of: Callable[[int], int | None] | None = None
) -> None:
    """Remove all but the newest `count` checkpoints, and for each of these the one that
    `best_of` says was the best at its step; each goes whole, by a rename."""
    paths = {step_of(path): path for path in _all(directory)}
    last = sorted(paths)[-count:]
    kept = {*last, *map(best_of, last)} if best_of else {*last}
    for step in paths.keys() - kept:
        _remove(paths[step], partial)


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
