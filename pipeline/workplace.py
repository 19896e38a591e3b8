"""Unfinished codebooks: what a kill must not cost, under `codebooks/<name>/work`.

Files are stamped with the recipe's fingerprint, appear whole or not at all, and go once the
codebook is committed.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from shards.atomic import Attempt, write_whole
from shards.layout import Layout

STAMP_BYTES = 32
STAMP = "sha256"  # in the header of what is read in slices

Tensors = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Workplace:
    """The directory of one codebook in the making, under one recipe."""

    root: Path
    name: str
    fingerprint: str

    @property
    def layout(self) -> Layout:
        return Layout(self.root)

    @property
    def directory(self) -> Path:
        return self.layout.codebook_work(self.name)

    def path(self, file: str) -> Path:
        return self.directory / file

    def drawn(self, shard: int) -> Path:
        """The frames that were drawn from a shard: a safetensors file, read in slices."""
        return self.path(f"draw-{shard:06d}")

    def write(self, file: str, tensors: Tensors) -> None:
        """A small file, behind a hash of recipe and content."""
        data = _encoded(tensors)
        write_whole(self.layout.partial, self.path(file), self._stamp(file, data) + data)

    def read(self, file: str) -> dict[str, npt.NDArray[Any]] | None:
        """What `write` wrote; None where there is none that is whole and of this recipe: to begin
        again ends at the same bytes."""
        try:
            data = self.path(file).read_bytes()
        except FileNotFoundError:
            return None
        stamp, tensors = data[:STAMP_BYTES], data[STAMP_BYTES:]
        return load(tensors) if stamp == self._stamp(file, tensors) else None

    def write_drawn(self, shard: int, tensors: Tensors) -> None:
        with Attempt(self.layout.partial, f"{self.name}-{shard:06d}") as attempt:
            data = _encoded(tensors, {STAMP: self._stamp_of(shard, tensors.__getitem__, tensors)})
            attempt.path("drawn").write_bytes(data)
            attempt.publish("drawn", self.drawn(shard))

    def has_drawn(self, shard: int) -> bool:
        """Whether a shard's frames were drawn under this recipe, and are whole."""
        try:
            with safe_open(self.drawn(shard), framework="numpy") as file:
                stamp = self._stamp_of(shard, file.get_tensor, file.keys())
                return bool((file.metadata() or {}).get(STAMP) == stamp)
        except (FileNotFoundError, SafetensorError):
            return False

    def clear(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)

    def _stamp(self, file: str, tensors: bytes) -> bytes:
        """Of a recipe, a file's name and what is in it: none of another passes for this one."""
        return hashlib.sha256(f"{self.fingerprint} {file} ".encode() + tensors).digest()

    def _stamp_of(
        self, shard: int, tensor: Callable[[str], npt.NDArray[Any]], names: Iterable[str]
    ) -> str:
        """The same of tensors that are read one by one."""
        digest = hashlib.sha256(f"{self.fingerprint} {shard}".encode())
        for name in sorted(names):
            array = np.ascontiguousarray(tensor(name))
            digest.update(f" {name} {array.dtype.str} {array.shape} ".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()


def _encoded(tensors: Tensors, header: dict[str, str] | None = None) -> bytes:
    """As safetensors, which would write an array in Fortran's order as if it were in C's."""
    return save({name: np.ascontiguousarray(array) for name, array in tensors.items()}, header)
