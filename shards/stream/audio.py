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
from typing import Any, Literal

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
Decode = Callable[[bytes], SamplesS]
Store = Literal["flac", "source"]
OF_SOURCE = ("container", "source_sha256")  # of the index: a member's suffix, and its bytes' hash


@dataclass(frozen=True)
class AudioChunk(ClipRows):
    """Some clips with their audio, in the order in which they were asked for: `encoded` as in the
    tar, or `waveforms` where the source decodes; the other is empty. `lengths_N` counts bytes, or
    samples."""

    encoded: tuple[bytes, ...]
    waveforms: tuple[SamplesS, ...]


@dataclass(frozen=True)
class AudioBatch(ClipBatch):
    """Some clips: `encoded`, or padded with silence to the longest of them."""

    encoded: tuple[bytes, ...]
    waveforms_BS: npt.NDArray[np.float32]  # [B, 0] where the source does not decode


def audio_batch(chunk: AudioChunk, piece: Piece, *, width: int | None = None) -> AudioBatch:
    """A piece of a chunk; `width` pads to so many samples, if the longest clip has fewer."""
    waveforms = chunk.waveforms[piece.rows]
    longest = max([width or 0, *map(len, waveforms)]) if waveforms else 0
    waveforms_BS = np.zeros((piece.stop - piece.start, longest), dtype=np.float32)
    for row_S, waveform_S in zip(waveforms_BS, waveforms, strict=bool(waveforms)):
        row_S[: len(waveform_S)] = waveform_S
    encoded = chunk.encoded[piece.rows]
    return AudioBatch(**chunk.of_batch(piece), encoded=encoded, waveforms_BS=waveforms_BS)


@dataclass(frozen=True)
class _Audio:
    """Where the audio of a shard's clips lies in its tar."""

    offsets: Indices
    sizes: Indices

    @property
    def nbytes(self) -> int:
        return self.offsets.nbytes + self.sizes.nbytes


class AudioSource(ClipSource):
    """Random access to the audio tars of a sealed `shard` stage; rows count over its decoded
    clips, as in a token set.

    Args:
        layout: of the run.
        records: of its shards, in the order of the seal.
        fingerprint: of the seal.
        store: what the tars hold, as `audio.store`: `flac`, or the `source`'s own files, whole.
        decode: from a clip's bytes to its waveform, done by the threads or processes that read;
            for loader processes a function of a module. None: batches hold bytes.

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
        decode: Decode | None = None,
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

    def read(self, rows: Indices) -> AudioChunk:
        """Many rows at once, in the order in which they lie in the tars."""
        read: list[Any] = [None] * len(rows)
        for shard, here, clips in self._clips.by_shard(rows):
            for place, item in zip(here.tolist(), self._items(shard, clips), strict=True):
                read[place] = item
        lengths_N = np.array([len(item) for item in read], dtype=np.int32)
        fields = vars(self._clips.of(rows)) | {"lengths_N": lengths_N}
        nothing: tuple[Any, ...] = ()
        encoded, waveforms = (nothing, tuple(read)) if self._decode else (tuple(read), nothing)
        return AudioChunk(**fields, encoded=encoded, waveforms=waveforms)

    def _items(self, shard: int, clips: Indices) -> Iterator[bytes | SamplesS]:
        """The bytes of some clips of a shard, or their waveforms."""
        audio = self._audio[shard]
        with self._files.open(self._tars[shard]) as file:
            for clip in clips.tolist():
                data = os.pread(file.fileno(), int(audio.sizes[clip]), int(audio.offsets[clip]))
                self._check(shard, clip, data)
                yield data if self._decode is None else self._decoded(shard, clip, data)

    def _check(self, shard: int, clip: int, data: bytes) -> None:
        row = int(self._clips.first_row[shard]) + clip
        if self._is_checked[row]:
            return
        sha256 = self._clips.parts[shard].further["source_sha256"][clip].decode()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise self._damage(shard, clip, "its bytes are damaged")
        self._is_checked[row] = True

    def _decoded(self, shard: int, clip: int, data: bytes) -> SamplesS:
        assert self._decode is not None
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


def open_audio(layout: Layout, decode: Decode | None = None) -> AudioSource:
    """The audio of a run. Raises NotMadeYet before `shard` has finished, and InputError where it
    kept no audio."""
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
