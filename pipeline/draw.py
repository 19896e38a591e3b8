"""Draw frames for K-means: a few from every training clip, chosen by a hash of its id.

The spread over clips decides the quality of a codebook more than the trainer does: frames of few
whole clips cost 24 to 32 % held-out error against the same number spread over all. So a clip's
frames are dealt over layers, each of which has some of every clip, and training reads layer after
layer: any stretch of them is a fair sample. A task draws from one shard, whose chunks it reads
once; what is drawn does not depend on workers or order.

Legend: N drawn frames, T frames of a clip, M numbers in a frame, D in a vector.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from configs.codebook import CodebookConfig
from configs.errors import InputError, IntegrityError
from configs.schema import SplitConfig
from pipeline.audio.distinct import distinct
from pipeline.audio.front_end import FrontEnd
from pipeline.audio.steps import VectorsTD
from pipeline.workplace import Workplace
from shards.commit import CommitRecord
from shards.frames import FramesTM, read_shard_frames
from shards.index import decoded, read_shard_index
from shards.layout import Layout
from shards.seal import Seal
from shards.splits import SPLIT_COLUMNS, TRAIN, SplitInputs, split_codes, unit_hash

FRAMES_A_LAYER = 16  # for each centroid
MOST_LAYERS = 64
LARGEST = 2.0**56  # of a vector's numbers: sums of squares stay below float32's largest
FIT_FRAMES = 2**18  # that a front end is fitted to
FRONT_END = "front-end"
TRAINING, HOLDOUT = "train", "holdout"
MASKED_SUM, MASKED_COUNT = "masked.sum", "masked.count"
COLUMNS = {  # of what is drawn
    "vectors": np.float32,
    "frames": np.float16,
    "weights": np.float32,  # how many equal ones a row stands for
    "is_digital_silence": np.bool_,
}

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Clips:
    """Ids of a shard's training clips: those to train on, and those held out to measure on."""

    train: frozenset[str]
    holdout: frozenset[str]


def training_clips(
    seal: Seal, config: CodebookConfig, split: SplitConfig, fold: int | None
) -> list[Clips]:
    """Which clips of each shard of a sealed set teach and test, under the split rule."""
    columns = [*SPLIT_COLUMNS, "status"]
    tables = [decoded(read_shard_index(seal.layout, record, columns)) for record in seal.records]
    parts = [SplitInputs.of_index(table) for table in tables]
    together = SplitInputs.joined(parts)
    if not together.ids:
        raise InputError(
            f"{seal.layout.root}: not one clip was decoded; `python -m pipeline status` says why; "
            "where files are too long, source.windows.length_s=10 cuts them"
        )
    is_train = split_codes(together, split, fold) == TRAIN
    bounds = np.cumsum([0, *(len(part.ids) for part in parts)])
    clips = [
        _cut(part, np.flatnonzero(is_train[start:stop]).tolist(), config.holdout_share)
        for part, start, stop in zip(parts, bounds, bounds[1:], strict=False)
    ]
    if not any(of_shard.train for of_shard in clips):
        raise InputError(
            f"codebook.holdout_share={config.holdout_share:g} leaves no clip to train on: lower it"
        )
    return clips


def _cut(part: SplitInputs, rows: Sequence[int], holdout_share: float) -> Clips:
    """Hold out some of a shard's clips; those of a group stay together."""
    units = part.units
    held = [row for row in rows if unit_hash(units[row], "holdout") < holdout_share]
    held_ids = frozenset(part.ids[row] for row in held)
    return Clips(frozenset(part.ids[row] for row in rows) - held_ids, held_ids)


def fit_front_end(seal: Seal, clips: Sequence[Clips], config: CodebookConfig) -> FrontEnd:
    """Fit to whole training clips, of as many shards as give FIT_FRAMES frames: the plan stands
    in the order of a hash, so that the first shards are a fair sample."""
    found: list[FramesTM] = []
    for record, of_shard in zip(seal.records, clips, strict=True):
        if sum(map(len, found)) < FIT_FRAMES:
            found += [frames_TM for _, frames_TM in _frames(seal.layout, record, of_shard.train)]
    silent = FrontEnd(config.front_end).silent
    if all(silent(frames_TM).all() for frames_TM in found):
        raise InputError(
            "codebook.front_end: no frame of the training clips is at or above "
            f"mask_below_db={config.front_end.mask_below_db}: lower it, or set it to null"
        )
    try:
        return FrontEnd.fit(config.front_end, found)
    except ValueError as error:
        raise InputError(f"codebook.front_end: {error}") from None


@dataclass(frozen=True)
class DrawTask:
    """All that is needed to draw from one shard.

    Args:
        frames_a_clip: as the mean over all clips, where they are long enough.
        silent_M: what a frame of digital silence is.
    """

    place: Workplace
    source: CommitRecord
    clips: Clips
    config: CodebookConfig
    frames_a_clip: float
    silent_M: npt.NDArray[np.float16]

    @property
    def title(self) -> str:
        return f"draw {self.place.name} {self.source.shard:06d}"


@dataclass(frozen=True)
class Drawn:
    """What a task did, for progress."""

    counts: dict[str, int]


def draw_shard(task: DrawTask) -> Drawn:
    """Draw from one shard and keep it in the workplace, or do nothing where that is done. Runs on
    workers."""
    place, clips = task.place, task.clips
    if not place.has_drawn(task.source.shard):
        config = task.config
        front_end = fitted(place, config)
        frames = list(_frames(place.layout, task.source, clips.train | clips.holdout))
        train = [clip for clip in frames if clip[0] in clips.train]
        holdout = [clip for clip in frames if clip[0] in clips.holdout]
        num_layers = min(MOST_LAYERS, max(1, config.frames_per_centroid // FRAMES_A_LAYER))
        tensors = {
            **_draw(TRAINING, train, num_layers, front_end, task),
            **_draw(HOLDOUT, holdout, 1, front_end, task),
            **_masked([clip[1] for clip in train], front_end, len(task.silent_M)),
        }
        place.write_drawn(task.source.shard, tensors)
    return Drawn({"clips": len(clips.train) + len(clips.holdout)})


def fitted(place: Workplace, config: CodebookConfig) -> FrontEnd:
    """The front end that a workplace keeps. Raises IntegrityError where it is damaged."""
    tensors = place.read(FRONT_END)
    if tensors is None:
        raise IntegrityError(
            f"{place.path(FRONT_END)} is missing or damaged: run the same command again, and the "
            "front end is fitted anew"
        )
    return FrontEnd.restored(config.front_end.model_dump(mode="json"), tensors)


def choose(
    clip_id: str, allowed_T: npt.NDArray[np.bool_], wanted: float, num_layers: int, seed: int
) -> tuple[Indices, Indices]:
    """Indices of some of a clip's allowed frames, in random order, and the layer of each.

    Of `wanted` as a mean over clips the fraction is chance: where less than one is wanted, only
    some clips have any. A clip's frames lie as far from each other over the layers as they can,
    and the first anywhere.
    """
    digest = hashlib.blake2b(f"{seed} {clip_id}".encode(), digest_size=16).digest()
    random = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "big")))
    most = math.floor(wanted + random.random())
    chosen = random.permutation(np.flatnonzero(allowed_T))[:most]
    place_C = (np.arange(len(chosen)) + random.random()) / max(1, len(chosen))
    return chosen, np.floor(place_C * num_layers).astype(np.int64)


def _frames(
    layout: Layout, record: CommitRecord, wanted: frozenset[str]
) -> Iterator[tuple[str, FramesTM]]:
    """The wanted clips of one shard, with all their frames."""
    if not wanted:
        return
    frames_TM = read_shard_frames(layout, record)
    columns = ["id", "row_start", "num_frames", "status"]
    for row in decoded(read_shard_index(layout, record, columns)).to_pylist():
        if row["id"] in wanted:
            clip_TM = frames_TM[row["row_start"] : row["row_start"] + row["num_frames"]]
            if not np.isfinite(clip_TM).all():
                raise InputError(
                    f"clip {row['id']} of shard {record.shard:06d}: its frames hold NaN or "
                    f"infinite values; `python -m shards verify {layout.root}` says what is damaged"
                )
            yield row["id"], clip_TM


def _draw(
    part: str,
    clips: Sequence[tuple[str, FramesTM]],
    num_layers: int,
    front_end: FrontEnd,
    task: DrawTask,
) -> dict[str, npt.NDArray[Any]]:
    """Vectors, frames and weights of the frames chosen from some clips, layer by layer; within a
    layer, frames that are equal become one that counts for all."""
    if not clips:
        clips = [("", np.empty((0, len(task.silent_M)), dtype=np.float16))]
    frames = [frames_TM for _, frames_TM in clips]
    wanted, seed = task.frames_a_clip, task.config.seed
    drawn = [
        choose(clip_id, ~front_end.silent(frames_TM), wanted, num_layers, seed)
        for clip_id, frames_TM in clips
    ]
    chosen = [chosen_C for chosen_C, _ in drawn]
    layer_N = np.concatenate([layer_C for _, layer_C in drawn])
    order = np.argsort(layer_N, kind="stable")
    vectors_ND = _within_bounds(front_end.vectors_of(frames, chosen), clips, chosen)[order]
    stored = [frames_TM[rows] for frames_TM, rows in zip(frames, chosen, strict=True)]
    frames_NM = np.concatenate(stored)[order]
    layer_N = layer_N[order]
    words = [array.view(np.uint8) for array in (vectors_ND, frames_NM, layer_N[:, None])]
    first, same_N = distinct(np.concatenate(words, axis=1))
    return {
        f"{part}.vectors": vectors_ND[first],
        f"{part}.frames": frames_NM[first],
        f"{part}.weights": np.bincount(same_N, minlength=len(first)).astype(np.float32),
        f"{part}.is_digital_silence": (frames_NM[first] == task.silent_M).all(axis=1),
        f"{part}.starts": np.searchsorted(layer_N[first], np.arange(num_layers + 1)),
    }


def _within_bounds(
    vectors_ND: VectorsTD, clips: Sequence[tuple[str, FramesTM]], chosen: Sequence[Indices]
) -> VectorsTD:
    """Raises InputError with the clip where a front end made NaN of frames, or huge numbers."""
    is_wrong_N = ~(np.abs(vectors_ND) <= LARGEST).all(axis=1)
    if is_wrong_N.any():
        ends = np.cumsum([len(rows) for rows in chosen])
        clip_id = clips[int(np.searchsorted(ends, is_wrong_N.argmax(), side="right"))][0]
        raise InputError(
            f"clip {clip_id}: codebook.front_end makes NaN of it, or numbers beyond {LARGEST:.0e}: "
            "look at the settings of its steps (gain, delta, root ...)"
        )
    return vectors_ND


def _masked(
    clips: Sequence[FramesTM], front_end: FrontEnd, num_mels: int
) -> dict[str, npt.NDArray[Any]]:
    """The sum of the frames that are masked, and their number."""
    total_M, count = np.zeros(num_mels), 0
    for frames_TM in clips:
        masked_TM = frames_TM[front_end.silent(frames_TM)]
        total_M += masked_TM.sum(axis=0, dtype=np.float64)
        count += len(masked_TM)
    return {MASKED_SUM: total_M, MASKED_COUNT: np.array([count])}
