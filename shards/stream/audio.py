"""The audio of decoded clips as their tars hold it, many rows at a time.

Legend: N rows asked for, B clips of a batch, S samples of its longest.

Tars are read in place: where the members of a shard lie is found once, from their headers, and
every clip is one read of the system. (A memory map is as fast and no faster, keeps other threads
waiting for Python's lock while a disk is slow, and counts as memory.)
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, overload

import numpy as np
import numpy.typing as npt

from configs.errors import InputError, IntegrityError
from shards.commit import CommitRecord, StageLog, fingerprint
from shards.index import NAME, STAGE, open_shards
from shards.layout import Layout
from shards.ragged import Indices
from shards.seal import Seal
from shards.stream.batches import ClipBatch, ClipRows
from shards.stream.clips import Clips, ClipSource, without_detail
from shards.stream.files import LocalFiles
from shards.stream.kept import Kept
from shards.stream.schedule import Piece
from shards.tar import Member, members

SamplesS = npt.NDArray[np.float32]  # mono, full scale 1
Item = TypeVar("Item")  # a clip as it is read: its bytes, or what is decoded of them
Store = Literal["flac", "source"]
OF_SOURCE = ("container", "source_sha256")  # of the index: a member's suffix, and its bytes' hash


@dataclass(frozen=True)
class AudioChunk(ClipRows, Generic[Item]):
    """Some clips with their audio, in the order in which they were asked for. `lengths_N` are
    those of the items: in bytes, or in samples."""

    items: tuple[Item, ...]


@dataclass(frozen=True)
class EncodedBatch(ClipBatch):
    """Some clips as their tars hold them."""

    encoded: tuple[bytes, ...]


@dataclass(frozen=True)
class WaveformBatch(ClipBatch):
    """Some clips, padded with silence to the longest of them."""

    waveforms_BS: npt.NDArray[np.float32]


def encoded_batch(chunk: AudioChunk[bytes], piece: Piece) -> EncodedBatch:
    """A piece of a chunk."""
    return EncodedBatch(**chunk.of_batch(piece), encoded=chunk.items[piece.rows])


def waveform_batch(
    chunk: AudioChunk[SamplesS], piece: Piece, *, width: int | None = None
) -> WaveformBatch:
    """A piece of a chunk; `width` pads to so many samples, if the longest clip has fewer."""
    waveforms = chunk.items[piece.rows]
    longest = max([width or 0, *map(len, waveforms)])
    waveforms_BS = np.zeros((len(waveforms), longest), dtype=np.float32)
    for row_S, waveform_S in zip(waveforms_BS, waveforms, strict=True):
        row_S[: len(waveform_S)] = waveform_S
    return WaveformBatch(**chunk.of_batch(piece), waveforms_BS=waveforms_BS)


@dataclass(frozen=True)
class _Audio:
    """Where the audio of a shard's clips lies in its tar."""

    offsets: Indices
    sizes: Indices

    @property
    def nbytes(self) -> int:
        return self.offsets.nbytes + self.sizes.nbytes


class AudioSource(ClipSource, Generic[Item]):
    """Random access to the audio tars of a sealed `shard` stage; rows count over its decoded
    clips, as in a token set.

    Args:
        layout: of the run.
        records: of its shards, in the order of the seal.
        fingerprint: of the seal.
        store: what the tars hold, as `audio.store`: `flac`, or the `source`'s own files, whole.
        decode: from a clip's bytes to what chunks hold, as its waveform; done by the threads or
            processes that read, for the latter a function of a module. `bytes` leaves them alone.

    Raises IntegrityError with the tar and the clip where a header is damaged, a member is not
    where it should be, or `decode` gives up. The bytes of a `source` are checked by the sha256 on
    record when first read. There is no such hash of a FLAC: its own checksums (a CRC-16 a frame)
    are the decoder's to check, and `python -m shards verify` compares the whole tar.
    """

    rows_at_once = 64  # of 10 s at 22 kHz, decoded: 54 MiB

    def __init__(
        self,
        layout: Layout,
        records: Sequence[CommitRecord],
        fingerprint: str,
        store: Store,
        decode: Callable[[bytes], Item],
    ) -> None:
        records = without_detail(records)
        clips = Clips(layout, records, OF_SOURCE if store == "source" else ())
        super().__init__(clips, fingerprint, (layout, records, fingerprint, store, decode))
        self._decode = decode
        self._tars = [record.file("audio/") for record in records]
        self._files = LocalFiles(layout.root)
        self._audio = Kept(self._find)
        self.unit_sizes = clips.counts
        self._is_checked = np.full(self.num_rows, store == "flac")

    def read(self, rows: Indices) -> AudioChunk[Item]:
        """Many rows at once, in the order in which they lie in the tars."""
        read: list[Any] = [None] * len(rows)
        for shard, here, clips in self._clips.by_shard(rows):
            for place, item in zip(here.tolist(), self._items(shard, clips), strict=True):
                read[place] = item
        lengths_N = np.array([len(item) for item in read], dtype=np.int32)
        fields = vars(self._clips.of(rows)) | {"lengths_N": lengths_N}
        return AudioChunk(**fields, items=tuple(read))

    def _items(self, shard: int, clips: Indices) -> Iterator[Item]:
        """Some clips of a shard."""
        audio = self._audio[shard]
        with self._files.open(self._tars[shard]) as file:
            for clip in clips.tolist():
                data = os.pread(file.fileno(), int(audio.sizes[clip]), int(audio.offsets[clip]))
                self._check(shard, clip, data)
                yield self._decoded(shard, clip, data)

    def _check(self, shard: int, clip: int, data: bytes) -> None:
        row = int(self._clips.first_row[shard]) + clip
        if self._is_checked[row]:
            return
        sha256 = self._clips.parts[shard].further["source_sha256"][clip].decode()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise self._damage(shard, clip, "its bytes are damaged")
        self._is_checked[row] = True

    def _decoded(self, shard: int, clip: int, data: bytes) -> Item:
        try:
            return self._decode(data)
        except Exception as error:  # every decoder has its own
            raise self._damage(shard, clip, f"it cannot be decoded ({error})") from error

    def _find(self, shard: int) -> _Audio:
        """Walk the headers of a tar: each clip's audio, and its JSON."""
        part = self._clips.parts[shard]
        suffixes = part.further["container"] if part.further else [b"flac"] * len(part.keys)
        found: list[Member] = []
        with self._files.open(self._tars[shard]) as file:
            walked = members(file)
            for clip, (key, suffix) in enumerate(zip(part.keys, suffixes, strict=True)):
                audio, _ = (
                    self._expect(shard, clip, walked, (key + b"." + end).decode())
                    for end in (suffix, b"json")
                )
                found.append(audio)
        return _Audio(
            *np.array([(m.offset, m.bytes) for m in found], dtype=np.int64).reshape(-1, 2).T
        )

    def _expect(self, shard: int, clip: int, walked: Iterator[Member], name: str) -> Member:
        try:
            member = next(walked, None)
        except ValueError:
            raise self._damage(shard, clip, f"the header of {name} is damaged") from None
        if member is None or member.name != name:
            found = "the end" if member is None else member.name
            raise self._damage(shard, clip, f"{found} stands in place of {name}")
        return member

    def _damage(self, shard: int, clip: int, what: str) -> IntegrityError:
        key = self._clips.parts[shard].keys[clip].decode()
        return IntegrityError(f"{self._tars[shard].path}: clip {key}: {what}; {self._files.cure}")


@overload
def open_audio(layout: Layout) -> AudioSource[bytes]: ...


@overload
def open_audio(layout: Layout, decode: Callable[[bytes], Item]) -> AudioSource[Item]: ...


def open_audio(layout: Layout, decode: Callable[[bytes], Any] = bytes) -> AudioSource[Any]:
    """The audio of a run, as its tars hold it or decoded. Raises NotMadeYet before `shard` has
    finished, and InputError where it kept no audio."""
    seal = open_shards(layout)
    return AudioSource(layout, seal.records, seal.fingerprint, _store_of(seal), decode)


def _store_of(seal: Seal) -> Store:
    recipe = StageLog(seal.layout, STAGE, NAME).recipe()
    if recipe is None or fingerprint(recipe) != seal.recipe_fingerprint:
        raise IntegrityError(
            f"{seal.layout.commits(STAGE, NAME)}: the recipe is missing or damaged; run "
            "`python -m pipeline shard` again, and it is written anew"
        )
    store: Any = recipe["audio"]["store"]
    if store not in ("flac", "source"):
        raise InputError(
            f"{seal.layout.root} holds no audio (audio.store={store}): make another run=DIR with "
            "audio.store=flac, or audio.store=source for the clips' own files"
        )
    kept: Store = store
    return kept
