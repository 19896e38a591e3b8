"""The config's `data` section: how training reads its examples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from configs.section import Section, split_commas

WHICH = {"classes", "ids"}  # the settings that choose clips, whoever reads them
OF_THE_STREAM = (
    "order",
    "window_blocks",
    "balance",
    "tail",
    "lengths",
    "threads",
    "workers",
    "remote",
    "on_damage",
)

ONLY_WITH = {
    "buffer_clips": ("reader", "webdataset"),
    "window_blocks": ("order", "window"),
    "balance": ("order", "weighted"),
}
OF_REMOTE = ("cache", "cache_gib")


class DataConfig(Section):
    """Which examples, in which order, and who reads them.

    `order` is `global` (a new permutation of all examples each epoch), `window` (of what
    `window_blocks` blocks of storage hold, and then the next ones: for shards that come from afar)
    or `weighted` (draws with replacement, clips of rare classes more often: each by the sum over
    its labels of one over the label's clips, to the power of `balance`). `tail` is what becomes of
    the end of an epoch that fills no whole batch: it is carried into the next epoch, dropped, or
    padded with clips of no weight. `lengths` pads a micro-batch to its longest clip (`mixed`), and
    puts similar ones into the same (`bucketed`), or pads all to the longest of the set (`fixed`:
    one width, and one shape with `tail=pad` and micro-batches that divide a batch).

    The `reader` webdataset reads shards from front to back, in a random order of shards, and mixes
    `buffer_clips` clips at a time: it knows none of these choices, and a resumed training draws
    what is left of its epoch anew.

    With `remote`, the URL of a copy of the run (`s3://`, `https://`, `hf://`, `file://` ...), a
    shard that is not in the run on disk is fetched into `cache` (None: the run's own), which never
    holds more than `cache_gib`. `on_damage` says what becomes of a block whose checksum fails:
    `raise` ends the command, `refetch` fetches its shard again from `remote`, `mask` lets the
    block's clips stand in their places and weigh nothing.
    """

    reader: Literal["stream", "webdataset"] = "stream"
    buffer_clips: PositiveInt = 8_192  # of the reader webdataset
    order: Literal["global", "window", "weighted"] = "global"
    window_blocks: PositiveInt = 128
    balance: Annotated[float, Field(ge=0, le=8)] = 1.0
    tail: Literal["carry", "drop", "pad"] = "carry"
    lengths: Literal["mixed", "bucketed", "fixed"] = "mixed"
    classes: Annotated[tuple[str, ...], BeforeValidator(split_commas)] = ()  # (): all of them
    ids: Path | None = None  # a file of clip ids, one a line; None: all clips
    threads: Annotated[int, Field(ge=0)] = 1  # that read ahead, in every loader worker
    workers: Annotated[int, Field(ge=0)] = 0  # processes that read; 0: the training's own
    remote: str | None = None
    cache: Path | None = None
    cache_gib: PositiveFloat = 50.0
    on_damage: Literal["raise", "refetch", "mask"] = "raise"

    @property
    def deciding(self) -> set[str]:
        """The settings that decide what the steps of a training are made of."""
        if self.reader == "webdataset":
            return {"reader", "buffer_clips"}
        own = {"window": {"window_blocks"}, "weighted": {"balance"}}.get(self.order, set())
        return {"reader", "order", "tail", "lengths", *own}

    @model_validator(mode="after")
    def _choices_are_of_the_reader(self) -> Self:
        chosen = [name for name in OF_THE_STREAM if self._is_chosen(name)]
        if self.reader != "stream" and chosen:
            raise ValueError(f"reader={self.reader} knows no {', '.join(chosen)}: leave them out")
        return self

    @model_validator(mode="after")
    def _no_choice_is_lost(self) -> Self:
        for name, (other, wanted) in ONLY_WITH.items():
            if self._is_chosen(name) and getattr(self, other) != wanted:
                raise ValueError(f"{name} is of {other}={wanted}: say that, too, or leave it out")
        for name in OF_REMOTE:
            if self._is_chosen(name) and self.remote is None:
                raise ValueError(f"{name} is of remote=URL: say that, too, or leave it out")
        return self

    def _is_chosen(self, name: str) -> bool:
        return bool(getattr(self, name) != type(self).model_fields[name].default)

    @model_validator(mode="after")
    def _refetch_has_a_remote(self) -> Self:
        if self.on_damage == "refetch" and self.remote is None:
            raise ValueError("on_damage=refetch needs data.remote, to fetch from")
        return self

    @model_validator(mode="after")
    def _no_order_hangs_on_damage(self) -> Self:
        """What is masked may differ from host to host; the order must not."""
        chosen = [self.order, self.lengths]
        if self.on_damage == "mask" and (found := {"weighted", "bucketed"}.intersection(chosen)):
            raise ValueError(
                f"on_damage=mask: {' and '.join(sorted(found))} would need the labels and lengths "
                "of masked clips; mend the run (`python -m shards verify RUN --repair`)"
            )
        return self
