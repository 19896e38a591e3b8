"""The verb `audit`: which clips were in a step of a training, and was each there once an epoch?

The order of a stream is a function, so the answer is computed from what `fit` wrote beside the
model: the same function, on the same sealed clips. Only how far the training came, and which clips
of damaged blocks weighed nothing, stand in its log.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from configs.console import counted, say
from configs.data import DataConfig
from configs.errors import InputError, IntegrityError, NotMadeYet
from configs.schema import SplitConfig
from shards.events import read_lines
from shards.layout import Layout
from shards.stream.choice import choose, order_of
from shards.stream.frames import FrameSource, open_frames
from shards.stream.remote import where_shards_are
from shards.stream.sampler import Sampler
from shards.stream.schedule import Place, Schedule, Span
from shards.stream.tokens import TokenSource, open_tokens

SPEC_NAME, JOURNAL_NAME = "stream.json", "metrics.jsonl"


@dataclass(frozen=True)
class Spec:
    """What decides the steps of a training on the `train` clips of a run."""

    tokens: str  # the name of the token set
    split: Mapping[str, Any]
    fold: int | None
    seed: int
    batch_size: int
    num_epochs: int
    data: Mapping[str, Any]
    fingerprint: str  # of the stream that `fit` read
    reads: str = "tokens"  # or `frames`: what that stream is made of

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=1).encode() + b"\n"

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises NotMadeYet where no training has begun, IntegrityError where it is damaged."""
        try:
            return cls(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            raise NotMadeYet(f"{path.parent}: no training has begun there") from None
        except (ValueError, TypeError):
            raise IntegrityError(f"{path} is damaged; `fit` writes it again") from None


@dataclass(frozen=True)
class Audit:
    """A training's steps, to be asked about. Steps count from 1, as in metrics.jsonl."""

    ids: tuple[str, ...]  # of all clips of the set, by row
    sampler: Sampler
    made: int  # steps, as far as metrics.jsonl tells; what comes after them is foretold
    masked: Mapping[int, Set[str]]  # by step, ids of clips that weighed nothing: of damaged blocks
    promises_all: bool  # each clip once an epoch

    @property
    def schedule(self) -> Schedule:
        return self.sampler.schedule

    def spans(self, step: int) -> tuple[Span, ...]:
        """Raises InputError for a step that the training does not have."""
        if not 1 <= step <= self.schedule.num_steps:
            raise InputError(f"--step {step}: there are steps 1 to {self.schedule.num_steps}")
        found = self.schedule.step_at(self.schedule.place_of(step - 1))
        assert found is not None
        return found.spans

    def clips(self, step: int) -> list[str]:
        """The ids of the clips of a step, in the order of the stream."""
        return [self.ids[row] for row in self.sampler.examples(self.spans(step))[0]]

    def state(self, epoch: int) -> str:
        """Whether the training has been through an epoch."""
        stands_at = self.schedule.place_of(self.made)
        if stands_at.epoch > epoch:
            return "done"
        return "begun" if stands_at > Place(epoch, 0) else "to come"

    def counts(self, epoch: int) -> dict[int, int]:
        """How many clips were seen how often in an epoch, from the spans of its steps."""
        place, spans = Place(epoch, 0), []
        for step in self.schedule.steps_from(place):
            spans += [span for span in step.spans if span.epoch == epoch]
            if step.after.epoch > epoch:
                break
        seen = np.bincount(self.sampler.examples(spans)[0], minlength=len(self.ids))
        times, clips = np.unique(seen[self.sampler.rows], return_counts=True)
        return dict(zip(times.tolist(), clips.tolist(), strict=True))


def say_step(audit: Audit, step: int) -> None:
    """Which clips a step saw, or will see; raises InputError for one that there is not."""
    spans = audit.spans(step)
    where = ", ".join(f"epoch {s.epoch}, positions {s.start} to {s.stop - 1}" for s in spans)
    ahead = "" if step <= audit.made else f"; to come, the log ends at step {audit.made}"
    say(f"step {step} of {audit.schedule.num_steps}: {where}{ahead}")
    masked = audit.masked.get(step, ())
    for clip_id in audit.clips(step):
        say(f"  {clip_id}{' (weighed nothing: its block was damaged)' * (clip_id in masked)}")


def say_epochs(audit: Audit) -> int:
    """How often each clip is seen in every epoch; returns 1 where one is lost or repeated that
    should not be."""
    if ids := frozenset().union(*audit.masked.values()):
        clips, steps = counted(len(ids), "clip"), counted(len(audit.masked), "step")
        say(f"{clips} weighed nothing in {steps}: their blocks were damaged (data.on_damage=mask)")
    is_faulty = False
    for epoch in range(audit.schedule.num_epochs):
        counts, state = audit.counts(epoch), audit.state(epoch)
        parts = [f"{clips} {_times(times)}" for times, clips in counts.items()]
        is_whole = set(counts) == {1}
        say(
            f"epoch {epoch}{'' if state == 'done' else f' ({state})'}: {', '.join(parts)}"
            f"{': each of them' if is_whole else ''}"
        )
        is_faulty |= audit.promises_all and not is_whole
    return int(is_faulty)


def _times(number: int) -> str:
    return {0: "never", 1: "once"}.get(number, f"{number} times")


def open_audit(layout: Layout, model: str | None) -> Audit:
    """The training of a model, or of the only one. Raises NotMadeYet, InputError also where its
    reader kept no order, or IntegrityError where the clips are no longer those that were trained
    on."""
    directory = layout.model(model) if model else _only_model(layout)
    spec = Spec.read(directory / SPEC_NAME)
    config = DataConfig.model_validate(spec.data)
    if config.reader != "stream":
        raise InputError(
            f"{directory}: was trained with data.reader={config.reader}, which keeps no order: "
            "what a step saw cannot be told; trainings with data.reader=stream can be audited"
        )
    source: TokenSource | FrameSource = (
        open_frames(layout)
        if spec.reads == "frames"
        else open_tokens(layout, spec.tokens, where_shards_are(layout))
    )
    choice = choose(layout, config, SplitConfig.model_validate(spec.split), spec.fold)
    rows = choice.rows("train")
    order = order_of(config, source, rows, spec.seed, choice.learnt)
    schedule = Schedule(len(rows), spec.batch_size, spec.num_epochs, config.tail)
    sampler = Sampler(source.fingerprint, rows, order, schedule)
    if sampler.fingerprint != spec.fingerprint:
        listed = f", or {config.ids} lists others" if config.ids else ""
        raise IntegrityError(
            f"{directory}: was trained on other clips than the run holds now{listed}"
        )
    promises_all = config.order != "weighted" and config.tail != "drop"
    journal = read_lines(directory / JOURNAL_NAME)
    masked = {line["step"]: frozenset(line["masked"]) for line in journal if "masked" in line}
    made = max((line["step"] for line in journal), default=0)
    return Audit(choice.ids, sampler, made, masked, promises_all)


def _only_model(layout: Layout) -> Path:
    found = sorted(path.parent for path in layout.root.glob(f"models/*/{SPEC_NAME}"))
    if not found:
        raise NotMadeYet(f"{layout.root}: no training on a stream has begun")
    if len(found) > 1:
        raise InputError(f"say which: --model {' or '.join(path.name for path in found)}")
    return found[0]
