"""Look at a run that somebody works on: from its files alone, and each record only once.

Files may appear, vanish or be half-written between two system calls. A record that cannot be read
now is read at the next look; what is wrong with more than that is raised, and may be over then.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cluster.events import NOTABLE
from configs.errors import IntegrityError, Preempted
from configs.schema import Config
from pipeline.pace import Made, Pace, pace
from pipeline.trainings import Trainings, TrainingSight
from shards import plan as plans
from shards.codebook import STAGE as CODEBOOK
from shards.codebook import codebook_names
from shards.commit import RECIPE_NAME, StageLog, stage_logs
from shards.events import Tail
from shards.index import NAME, STAGE
from shards.layout import Layout
from shards.lock import Holder, holder
from shards.seal import find_seal
from shards.tokens import STAGE as TOKENIZE

Event = Mapping[str, Any]
State = Literal["nobody", "at work", "done", "failed", "gone", "not seen"]


@dataclass(frozen=True)
class StageSight:
    """A stage under a name: records of total, and how fast they come while somebody works on it.

    `is_begun` when it has a recipe, `is_finished` when it is sealed, or needs no seal.
    """

    stage: str
    name: str
    total: int
    done: int
    is_begun: bool
    is_finished: bool
    pace: Pace | None

    @property
    def title(self) -> str:
        return self.stage if self.name == NAME else f"{self.stage} {self.name}"

    @property
    def is_sealable(self) -> bool:
        """A codebook is one record."""
        return self.stage != CODEBOOK

    @property
    def left_s(self) -> float | None:
        """Seconds until all of it is committed; None where nobody can say."""
        return self.pace.left_s(self.total - self.done) if self.pace else None


@dataclass(frozen=True)
class Sight:
    """What a run held at one moment.

    `num_clips` and `num_shards` are the plan's, None before there is one; `num_seen` and `reasons`
    count the clips of committed shards, and those of them in quarantine. `state` is what became of
    the last holder, as far as this host can see; `fault` is the error that it failed with, empty
    where the same command would go on. `events` are those worth knowing that were noted since the
    look before.
    """

    root: Path
    num_clips: int | None
    num_shards: int | None
    stages: tuple[StageSight, ...]
    trainings: tuple[TrainingSight, ...]
    num_seen: int
    reasons: Mapping[str, int]
    holder: Holder | None
    state: State
    fault: str
    events: tuple[Event, ...]

    @property
    def is_finished(self) -> bool:
        """Whether something is made, and no stage that is begun is unfinished; nobody waits for
        trainings here."""
        begun = [stage for stage in self.stages if stage.is_begun]
        return bool(begun) and all(stage.is_finished for stage in begun)


@dataclass(frozen=True)
class _Shard:
    made: Made
    reasons: Mapping[str, int]


@dataclass
class _StageReader:
    """The records of one stage, each read once."""

    log: StageLog
    is_enough: Callable[[], bool]
    shards: dict[int, _Shard] = field(default_factory=dict)
    _sealed_as: frozenset[Any] = frozenset()  # seals and shards that were found to belong together

    def read(self) -> int:
        """Read what is new; returns how many shards are committed."""
        committed = self.log.committed()
        for gone in self.shards.keys() - committed:  # a repair moved it away
            del self.shards[gone]
        for number in sorted(committed - self.shards.keys()):
            shard = None if self.is_enough() else self._shard(number)
            if shard is not None:
                self.shards[number] = shard
        return len(committed)

    def _shard(self, number: int) -> _Shard | None:
        try:
            record = self.log.record(number)
            at_s = self.log.path(number).stat().st_mtime
        except (OSError, IntegrityError):
            return None
        if record is None:
            return None
        clips = record.counts.get("clips", 0)
        return _Shard(Made(at_s, clips), record.detail.get("reasons", {}))

    def is_sealed(self) -> bool:
        """Finding a seal reads every record that it names: once is enough."""
        names = frozenset(path.name for path in self.log.layout.seals.glob(f"{self.log.stage}-*"))
        key = names | self.shards.keys()
        if names and key != self._sealed_as:
            found = find_seal(self.log.layout, self.log.stage, self.log.name)
            self._sealed_as = key if found else frozenset()
        return bool(names) and key == self._sealed_as

    def begun_s(self) -> float | None:
        """When the recipe was written; None where there is none."""
        try:
            return (self.log.directory / RECIPE_NAME).stat().st_mtime
        except OSError:
            return None


class Lookout:
    """Looks at one run again and again.

    `is_enough` breaks a look off, which then means nothing: the first one at a large run on a slow
    disk takes a while.
    """

    def __init__(self, config: Config, is_enough: Callable[[], bool] = lambda: False) -> None:
        self._config, self._layout, self._is_enough = config, Layout(config.run), is_enough
        self._tail = Tail(self._layout.events)
        self._readers: dict[tuple[str, str], _StageReader] = {}
        self._trainings = Trainings(self._layout)
        self._last_verb: Event = {}

    def look(self) -> Sight:
        """What the run holds now. Raises OSError or AudiolexError where its files say something
        that cannot be."""
        now_s = time.time()
        who = holder(self._layout.lock)  # before the events: a verb that ends meanwhile comes later
        events = self._new_events()
        state = self._state(who)
        plan = plans.load(self._layout) if self._layout.plan_json.exists() else None
        begin_s = who.since_s if who and state in ("at work", "not seen") else now_s
        stages = self._stages(plan.num_shards, begin_s, now_s) if plan else ()
        shards = self._reader(STAGE, NAME).shards.values()
        reasons = Counter[str]()
        for shard in shards:
            reasons.update(shard.reasons)
        return Sight(
            root=self._layout.root,
            num_clips=plan.num_clips if plan else None,
            num_shards=plan.num_shards if plan else None,
            stages=stages,
            trainings=tuple(self._trainings.look()),
            num_seen=sum(shard.made.clips for shard in shards),
            reasons=reasons,
            holder=who,
            state=state,
            fault=self._fault() if state == "failed" else "",
            events=events,
        )

    def _new_events(self) -> tuple[Event, ...]:
        """The ones worth knowing; the last verb that held the run is kept besides."""
        new = self._tail.new()
        verbs = [event for event in new if "holds_since" in event]
        self._last_verb = verbs[-1] if verbs else self._last_verb
        return tuple(e for e in new if e.get("event") in NOTABLE or e.get("done") is False)

    def _state(self, who: Holder | None) -> State:
        if who is None:
            return "nobody"
        if self._last_verb.get("holds_since") == who.since_s:
            return "done" if self._last_verb.get("done") else "failed"
        is_alive = who.is_alive
        if is_alive is None:
            return "not seen"
        return "at work" if is_alive else "gone"

    def _fault(self) -> str:
        is_stopped = self._last_verb.get("exit_code") == Preempted.exit_code
        return "" if is_stopped else str(self._last_verb.get("error", ""))

    def _stages(self, num_shards: int, begin_s: float, now_s: float) -> tuple[StageSight, ...]:
        readers = self._all_readers()
        return tuple(_stage(reader, num_shards, begin_s, now_s) for reader in readers)

    def _all_readers(self) -> Iterator[_StageReader]:
        """What the config asks for and what is begun, in the order of the stages."""
        begun = [(log.stage, log.name) for log in stage_logs(self._layout)]
        wanted = [name for name, _ in codebook_names(self._config.codebook, self._config.split)]
        keys = [(STAGE, NAME)]
        for stage in (CODEBOOK, TOKENIZE):
            keys += [key for key in begun if key[0] == stage]
            keys += [(stage, name) for name in wanted]
        return (self._reader(*key) for key in dict.fromkeys(keys))

    def _reader(self, stage: str, name: str) -> _StageReader:
        new = _StageReader(StageLog(self._layout, stage, name), self._is_enough)
        return self._readers.setdefault((stage, name), new)


def _stage(reader: _StageReader, num_shards: int, begin_s: float, now_s: float) -> StageSight:
    done, log, begun_s = reader.read(), reader.log, reader.begun_s()
    is_one = log.stage == CODEBOOK
    total = 1 if is_one else num_shards
    is_finished = done >= total and (is_one or reader.is_sealed())
    made = [shard.made for shard in reader.shards.values()]
    found = pace(made, max(begin_s, begun_s or 0.0), now_s) if done < total else None
    return StageSight(log.stage, log.name, total, done, begun_s is not None, is_finished, found)
