"""Which clips train, validate and test: a pure function of ids, the source's word and the config.

Each clip gets one code, so splits cannot overlap. Under the rules source, first_letter and hash a
clip's split depends on nothing but itself: it is the same in any subset, order or process.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from configs.errors import InputError
from configs.schema import SplitConfig

SPLITS = ("train", "valid", "test")
TRAIN, VALID, TEST = range(3)
NO_SPLIT = 255  # of a clip that the config leaves out
SPLIT_COLUMNS = ("id", "split", "fold", "group", "labels")

SplitCodes = npt.NDArray[np.uint8]


def unit_hash(clip_id: str, salt: str) -> float:
    """A number in [0, 1) that depends on nothing but the id and the salt."""
    digest = hashlib.blake2b(clip_id.encode(), digest_size=8, person=salt.encode()).digest()
    return int.from_bytes(digest, "big") / 2**64


@dataclass(frozen=True)
class SplitInputs:
    """What the rules look at, one entry a clip: the columns of an index."""

    ids: Sequence[str]
    declared: Sequence[str]  # the source's word: train, valid or test
    folds: Sequence[int]  # 0 where the source has none
    groups: Sequence[str | None]
    labels: Sequence[Sequence[int]]

    @classmethod
    def of_index(cls, table: pa.Table) -> Self:
        """From the columns SPLIT_COLUMNS of an index."""
        return cls(*(table.column(name).to_pylist() for name in SPLIT_COLUMNS))

    @classmethod
    def joined(cls, parts: Sequence[SplitInputs]) -> Self:
        """The clips of several parts, in order."""
        columns = ([getattr(part, name) for part in parts] for name in cls.__dataclass_fields__)
        return cls(*([value for values in column for value in values] for column in columns))

    @property
    def units(self) -> list[str]:
        """What is split: a clip's group, or the clip itself where it has none."""
        pairs = zip(self.groups, self.ids, strict=True)
        return [clip_id if group is None else f"group {group}" for group, clip_id in pairs]


def split_codes(inputs: SplitInputs, config: SplitConfig, fold: int | None = None) -> SplitCodes:
    """TRAIN, VALID or TEST for each clip; `fold` is the one that tests, where there are folds.

    Raises InputError where no clip is left to train on, folds are asked for that the source
    lacks, or a group ends in two splits.
    """
    units = inputs.units
    if fold is not None:
        codes = _by_fold(inputs.folds, fold)
    elif any(inputs.folds) and config.rule == "source":
        listed = ", ".join(str(known) for known in sorted(set(inputs.folds)))
        raise InputError(f"the source comes in folds: set split.folds=[{listed}]")
    elif config.rule in ("source", "first_letter"):
        codes = np.array([SPLITS.index(split) for split in inputs.declared], dtype=np.uint8)
    else:
        codes = CUTS[config.rule](inputs, units, config)
    if config.rule == "first_letter":
        cut = np.array([clip_id[:1] in config.letters for clip_id in inputs.ids], dtype=bool)
        codes[(codes == TRAIN) & cut] = VALID
    elif fold is not None and config.valid_fold is not None:
        codes[np.asarray(inputs.folds) == config.valid_fold] = VALID
    elif config.rule == "source" or fold is not None:
        cut = np.array(
            [unit_hash(unit, "valid") < config.valid_share for unit in units], dtype=bool
        )
        codes[(codes == TRAIN) & cut] = VALID
    if TRAIN not in codes:
        raise InputError("split: no clip is left to train on; check split and the source's sets")
    _refuse_torn_groups(inputs, codes)
    return codes


def _by_fold(folds: Sequence[int], fold: int) -> SplitCodes:
    is_test = np.asarray(folds) == fold
    if not is_test.any():
        raise InputError(f"split.folds: the source has no clips in fold {fold}")
    return np.where(is_test, TEST, TRAIN).astype(np.uint8)


def _by_hash(_: SplitInputs, units: Sequence[str], config: SplitConfig) -> SplitCodes:
    return _cut([unit_hash(unit, "split") for unit in units], config)


def _exact(_: SplitInputs, units: Sequence[str], config: SplitConfig) -> SplitCodes:
    rank_of = _ranks(Counter(units), config.seed, "")
    return _cut([rank_of[unit] for unit in units], config)


def _stratified(inputs: SplitInputs, units: Sequence[str], config: SplitConfig) -> SplitCodes:
    """Exact within each label. A clip of several labels counts for its rarest, a group for its
    first clip's."""
    counts = Counter(label for labels in inputs.labels for label in labels)
    strata: dict[str, int] = {}
    for unit, labels in zip(units, inputs.labels, strict=True):
        strata.setdefault(unit, min(labels, key=lambda c: (counts[c], c), default=-1))
    sizes: dict[int, Counter[str]] = {}
    for unit in units:
        sizes.setdefault(strata[unit], Counter())[unit] += 1
    rank_of: dict[str, float] = {}
    for label, members in sizes.items():
        rank_of |= _ranks(members, config.seed, str(label))
    return _cut([rank_of[unit] for unit in units], config)


CUTS: dict[str, Callable[[SplitInputs, Sequence[str], SplitConfig], SplitCodes]] = {
    "hash": _by_hash,
    "exact": _exact,
    "stratified": _stratified,
}


def _ranks(sizes: Mapping[str, int], seed: int, stratum: str) -> dict[str, float]:
    """Each unit's place, as a share of all clips, in an order drawn from the seed.

    The order is turned by a share of its own: a label of five clips gives a tenth of the time one
    to a split of a tenth, where it would otherwise never give any.
    """
    order = sorted(sizes, key=lambda unit: (unit_hash(f"{seed} {unit}", "rank"), unit))
    ends = np.cumsum([sizes[unit] for unit in order])
    middles = (ends - np.array([sizes[unit] for unit in order]) / 2) / max(1, ends[-1])
    turn = unit_hash(f"{seed} {stratum}", "turn")
    return dict(zip(order, ((middles + turn) % 1.0).tolist(), strict=True))


def _cut(numbers: Sequence[float], config: SplitConfig) -> SplitCodes:
    """Below `test_share` tests, the next `valid_share` validates."""
    places = np.asarray(numbers)
    codes = np.full(len(places), TRAIN, dtype=np.uint8)
    codes[places < config.test_share + config.valid_share] = VALID
    codes[places < config.test_share] = TEST
    return codes


def _refuse_torn_groups(inputs: SplitInputs, codes: SplitCodes) -> None:
    code_of: dict[str, int] = {}
    for group, code in zip(inputs.groups, codes.tolist(), strict=True):
        if group is not None and code_of.setdefault(group, code) != code:
            names = " and ".join(sorted({SPLITS[code_of[group]], SPLITS[code]}))
            raise InputError(
                f"split: group {group!r} is in {names}; clips of one group must stay together: "
                "use rule hash, exact or stratified, or mend the source's splits"
            )
