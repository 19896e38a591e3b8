"""The reader `webdataset`: training on token shards read from front to back.

The same steps as the stream's, of other clips: shards in a random order, mixed in a buffer. What
was read ahead when a training stopped is lost, so a resumed one draws what is left of its epoch
anew from all clips: some of them are seen twice in that epoch, as many not at all. To begin the
epoch again would be no better, and a training that is stopped often would see its beginning only.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import torch

from configs.console import say
from configs.errors import IntegrityError
from configs.schema import TrainConfig
from shards.commit import REPAIR, fingerprint
from shards.keys import key_of
from shards.stream.sampler import Sampler
from shards.stream.schedule import Part, Place, Schedule, World, parts_of
from shards.stream.stream import Step
from shards.wds import Checksums, token_pipeline
from train.batches import Batch, Rows
from train.data import TokenData

NOTICE = (
    "reader webdataset: sequential, shuffled in a buffer; a resumed training does not see exactly "
    "the examples that were left"
)
Clip = dict[str, Any]


@dataclass(frozen=True)
class BufferOrder:
    """As a pipeline mixes: it has positions, but only the pipeline finds out what stands there."""

    num_positions: int
    seed: int
    buffer_clips: int
    name: str = "webdataset"

    def examples(self, epoch: int, positions: Rows) -> Rows:
        raise NotImplementedError("a webdataset pipeline cannot be asked for positions")

    def recipe(self) -> dict[str, Any]:
        return {"mode": self.name, "buffer_clips": self.buffer_clips}


class SequentialStream:
    """Some rows of a token set in steps, by a webdataset pipeline an epoch. Every rank reads all
    clips, in the same order, and keeps its part of a step: so they make the same number of steps,
    whatever shards hold."""

    def __init__(
        self, data: TokenData, rows: Rows, train: TrainConfig, world: World | None = None
    ) -> None:
        self._data, self._rows, self._train = data, rows, train
        self._world = world or World()
        order = BufferOrder(len(rows), train.seed, data.config.buffer_clips)
        schedule = Schedule(len(rows), train.batch_size, train.epochs)
        self.sampler = Sampler(data.source.fingerprint, rows, order, schedule)

    def steps(self, place: Place) -> Generator[Step[Batch], None, None]:
        """All steps from a place on; raises IntegrityError where shards are damaged, or do not hold
        all clips."""
        if place.position:
            say(f"reader webdataset: what is left of epoch {place.epoch + 1} is drawn anew")
        clips = self._clips(place)
        for step in self.sampler.schedule.steps_from(place):
            began_s = time.perf_counter()
            taken = [*islice(clips, step.num_examples)]
            read_s = time.perf_counter() - began_s
            parts = parts_of(len(taken), self._world, self._train.forward_size)
            batches = tuple(self._batch(taken, part) for part in parts)
            waited_s = time.perf_counter() - began_s  # this process does all of it
            after = self.sampler.cursor(step.after)
            yield Step(batches, len(taken), after, waited_s, read_s, waited_s - read_s)

    def _clips(self, place: Place) -> Iterator[Clip]:
        """As many clips of every epoch as are left of it."""
        first = place.position
        for epoch in range(place.epoch, self.sampler.schedule.num_epochs):
            yield from self._epoch(epoch, first)
            first = 0

    def _epoch(self, epoch: int, first: int) -> Iterator[Clip]:
        wanted = len(self._rows) - first
        pipeline = token_pipeline(
            [str(path.absolute()) for path in self._data.source.paths()],
            seed=int(fingerprint([self._train.seed, epoch, first])[:15], 16),
            buffer_clips=self._data.config.buffer_clips,
            check=Checksums.of(self._data.source.index),
            is_split=False,
        )
        ours = (clip for clip in pipeline if clip["__key__"] in self._row_of)
        found = 0
        for clip in islice(ours, wanted):
            found += 1
            yield clip
        if found < wanted:
            raise IntegrityError(
                f"the token shards ended after {found} of {wanted} training clips; {REPAIR}"
            )

    @cached_property
    def _row_of(self) -> dict[str, int]:
        """The rows of the clips by their keys."""
        return {key_of(self._data.ids[row]): row for row in self._rows.tolist()}

    def _batch(self, taken: Sequence[Clip], part: Part) -> Batch:
        clips = [taken[place] for place in part.places.tolist()]
        lengths_B = np.array([len(clip["tokens"]) for clip in clips], dtype=np.int64)
        shape = (len(clips), lengths_B.max(), self._data.codebook.num_codebooks)
        tokens_BTQ = np.full(shape, self._data.pad_id, dtype=np.int64)
        for row_TQ, clip in zip(tokens_BTQ, clips, strict=True):
            row_TQ[: len(clip["tokens"])] = clip["tokens"]
        starts = np.cumsum([0, *(len(clip["label_ids"]) for clip in clips)])
        labels = np.concatenate([clip["label_ids"] for clip in clips])
        targets_BC = self._data.learnt.targets(labels, starts)
        return Batch(
            np.array([self._row_of[clip["__key__"]] for clip in clips], dtype=np.int64),
            torch.from_numpy(tokens_BTQ),
            torch.from_numpy(lengths_B),
            torch.from_numpy(targets_BC),
            (torch.arange(len(clips)) < part.num_real).float(),
        )
