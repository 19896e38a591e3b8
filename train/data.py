"""Token sets, and the frames that they are of, as training data: splits, batches, and which rows a
step sees.

Legend: B clips in a batch, T places of the longest, N numbers at each (Q tokens, or a vector), C
classes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from configs.augment import Augment
from configs.console import counted, say
from configs.data import DataConfig
from configs.errors import InputError
from configs.frames import FRAMES
from configs.models import FrameModel
from configs.schema import Config, SplitConfig, TrainConfig
from pipeline.audio.change import Level, level_of
from pipeline.audio.front_end import FrontEnd
from pipeline.audio.quantise import Quantiser
from shards.codebook import Codebook, open_codebook
from shards.commit import REPAIR
from shards.layout import Layout
from shards.plan import ClassName, Task, load_bound
from shards.splits import SPLITS, SplitCodes
from shards.stream.choice import choose, order_of
from shards.stream.frames import open_frames
from shards.stream.order import StoredOrder
from shards.stream.schedule import Piece, Schedule, World
from shards.stream.stream import Stream
from shards.stream.tokens import TokenSource, open_tokens, refuse_foreign
from train.augment import Augmented, Masked
from train.batches import Batch, Classes, Rows, collate
from train.inputs import Frames, Inputs, Tokens
from train.jobs import Job
from train.models.embedding import Vocabulary

BatchStream = Stream[Any, Batch]


def say_masked(num_clips: int, split: str) -> None:
    """One line, if clips were damaged and masked."""
    if num_clips:
        say(
            f"warning: {counted(num_clips, 'clip')} of split {split} weighed nothing: their blocks "
            f"are damaged (data.on_damage=mask); {REPAIR}"
        )


@dataclass(frozen=True)
class TokenData:
    """A sealed token set with its classes and the split of every clip; with `frames`, models read
    those instead of tokens."""

    source: TokenSource
    codebook: Codebook
    codebook_fingerprint: str
    learnt: Classes
    task: Task
    ids: tuple[str, ...]
    splits: SplitCodes
    config: DataConfig = field(default_factory=DataConfig)
    frames: Frames | None = None
    layout: Layout | None = None  # of its run, where that has frames

    @property
    def inputs(self) -> Inputs:
        return self.frames or Tokens(self.source, self.pad_id)

    def training_inputs(self, train: TrainConfig) -> Inputs:
        """The same, but for what a training changes of them."""
        inputs = self.inputs if train.augment is None else self._augmented(train.augment)
        return inputs if train.span_masks is None else Masked(inputs, train.span_masks, self.pad_id)

    def reads_frames(self, train: TrainConfig) -> bool:
        """Whether a training goes through stored frames, and not through tokens."""
        return self.frames is not None or train.augment is not None

    def _augmented(self, config: Augment) -> Augmented:
        """Made of the frames that the tokens are of, by what the stages do with frames."""
        if self.frames is not None:
            source, made, filling = self.frames.source, self.frames.made, np.float32(0)
            return Augmented(source, made, filling, config, self._level, self.longest)
        assert self.layout is not None, "a run with frames"
        source, quantiser = open_frames(self.layout), Quantiser(self.codebook)
        pad = np.int64(self.pad_id)
        return Augmented(source, quantiser.tokens_of, pad, config, self._level, self.longest)

    @property
    def _level(self) -> Level:
        return level_of(FRAMES.validate_python(dict(self.codebook.frames)))

    @property
    def classes(self) -> tuple[ClassName, ...]:
        return self.learnt.names

    @property
    def seen(self) -> Vocabulary | int:
        """What a model meets at each place of a clip: tokens, or a vector of so many numbers."""
        if self.frames is not None:
            return self.frames.num_numbers
        return vocabulary_of(self.codebook)

    @property
    def pad_id(self) -> int:
        return self.codebook.vocabulary

    @property
    def longest(self) -> int:
        """Places of the longest clip of any split."""
        return self.inputs.longest

    def rows(self, split: str) -> Rows:
        """Rows of the clips of a split, in stored order."""
        return np.flatnonzero(self.splits == SPLITS.index(split))

    def whole(self, rows: Rows) -> Rows:
        """Those of some rows that could be read: all of them, unless damaged ones are masked."""
        return rows[self.source.is_whole(rows)] if self.config.on_damage == "mask" else rows

    def masked(self, rows: Rows) -> list[str]:
        """The ids of those that could not be read."""
        whole = set(self.whole(rows).tolist())
        return [self.ids[row] for row in rows.tolist() if row not in whole]

    @property
    def test_split(self) -> str:
        """`test`, or `valid` for a set without test clips."""
        return "test" if len(self.rows("test")) else "valid"

    def targets(self, rows: Rows) -> npt.NDArray[np.float32]:
        """Multi-hot labels [N, C] of some rows."""
        return self.learnt.targets(*self.source.labels(rows))

    def count_classes(self, rows: Rows) -> tuple[Rows, int]:
        """How many of some clips have each class, and how many there are."""
        rows = self.whole(rows)
        labels, starts = self.source.labels(rows)
        column_L, clip_L = (
            self.learnt.columns[labels],
            np.repeat(np.arange(len(rows)), np.diff(starts)),
        )
        pairs = np.unique(np.stack([column_L, clip_L])[:, column_L >= 0], axis=1)
        return np.bincount(pairs[0], minlength=len(self.classes)), len(rows)

    def stream(self, rows: Rows, train: TrainConfig, world: World | None = None) -> BatchStream:
        """The steps of a training on some rows; `world` says which training process this is."""
        config, inputs = self.config, self.training_inputs(train)
        source = inputs.source
        return Stream(
            source,
            order_of(config, source, rows, train.seed, self.learnt.numbers),
            Schedule(len(rows), train.batch_size, train.epochs, config.tail),
            self._collate(inputs, self.longest if config.lengths == "fixed" else None, train.mixup),
            rows=rows,
            world=world,
            micro_batch_size=train.forward_size,
            sorts_lengths=config.lengths == "bucketed",
            num_threads=config.threads,
        )

    def batches(self, rows: Rows, at_once: int) -> Generator[Batch, None, None]:
        """All of some rows in their order, `at_once` at a time."""
        if not len(rows):
            return
        order, schedule = StoredOrder(len(rows)), Schedule(len(rows), at_once, num_epochs=1)
        collate, source = self._collate(self.inputs), self.inputs.source
        stream = Stream(source, order, schedule, collate, rows=rows, num_threads=0)
        for step in stream.steps():
            yield from step.batches

    def _collate(
        self, inputs: Inputs, width: int | None = None, mixup: float = 0.0
    ) -> Callable[[Any, Piece], Batch]:
        return partial(collate, inputs=inputs, classes=self.learnt, width=width, mixup=mixup)


def vocabulary_of(codebook: Codebook) -> Vocabulary:
    """What a model of its tokens meets."""
    return Vocabulary(codebook.vocabulary, codebook.num_codebooks, codebook.terms_QKN)


def job_data(config: Config, job: Job) -> TokenData:
    """What the model of a job reads; raises as `open_data`."""
    reads = job.model.reads if isinstance(job.model, FrameModel) else "tokens"
    return open_data(job.layout, job.tokens, config.split, job.fold, config.data, reads)


def open_data(
    layout: Layout,
    name: str,
    split: SplitConfig,
    fold: int | None,
    config: DataConfig | None = None,
    reads: str = "tokens",
) -> TokenData:
    """Open the tokens of a codebook, and to read them the frames that they are of: as `vectors` of
    its front end, or as `frames`. Raises NotMadeYet, InputError or IntegrityError."""
    config = config or DataConfig()
    source = open_tokens(layout, name, config)
    codebook, fingerprint = open_codebook(layout, name)
    if load_bound(layout).task == "regression":
        raise InputError(f"{layout.root}: its targets are numbers; models here learn labels")
    refuse_foreign(layout, name)
    choice = choose(layout, config, split, fold)
    learnt = Classes.chosen(choice.classes, choice.learnt)
    args = source, codebook, fingerprint, learnt, choice.task, choice.ids, choice.splits, config
    frames = None if reads == "tokens" else _frames(layout, codebook, reads)
    return TokenData(*args, frames, layout)


def _frames(layout: Layout, codebook: Codebook, reads: str) -> Frames:
    front_end = FrontEnd.restored(codebook.front_end, codebook.front_end_tensors)
    return Frames(open_frames(layout), front_end if reads == "vectors" else None)
