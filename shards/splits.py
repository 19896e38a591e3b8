"""Which clips train, validate and test: a pure function of ids, the source's word and the config.

Each clip gets one code, so splits cannot overlap; and the rule looks at one id at a time, so the
split of a clip is the same in any subset, order or process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from configs.errors import InputError
from configs.schema import SplitConfig

SPLITS = ("train", "valid", "test")
TRAIN, VALID, TEST = range(3)

SplitCodes = npt.NDArray[np.uint8]


def unit_hash(clip_id: str, salt: str) -> float:
    """A number in [0, 1) that depends on nothing but the id and the salt."""
    digest = hashlib.blake2b(clip_id.encode(), digest_size=8, person=salt.encode()).digest()
    return int.from_bytes(digest, "big") / 2**64


def split_codes(
    ids: Sequence[str],
    declared: Sequence[str],
    folds: Sequence[int],
    config: SplitConfig,
    fold: int | None = None,
) -> SplitCodes:
    """TRAIN, VALID or TEST for each clip.

    Args:
        ids: clip ids.
        declared: `train`, `valid` or `test`, the source's word for each clip.
        folds: the source's fold of each clip, 0 where it has none.
        config: the rule.
        fold: the fold that tests, where the job runs over folds.

    Raises:
        InputError: no clip is left to train on, or folds are asked for that the source lacks.
    """
    codes = _by_fold(folds, fold) if fold is not None else _as_declared(declared, folds)
    if config.rule == "first_letter":
        letters = np.array([clip_id[:1] in config.letters for clip_id in ids], dtype=bool)
        codes[(codes == TRAIN) & letters] = VALID
    else:
        share = config.valid_share
        cut = np.array([unit_hash(clip_id, "valid") < share for clip_id in ids], dtype=bool)
        codes[(codes == TRAIN) & cut] = VALID
    if TRAIN not in codes:
        raise InputError("split: no clip is left to train on; check split and the source's sets")
    return codes


def _as_declared(declared: Sequence[str], folds: Sequence[int]) -> SplitCodes:
    if any(folds):
        listed = ", ".join(str(fold) for fold in sorted(set(folds)))
        raise InputError(f"the source comes in folds: set split.folds=[{listed}]")
    return np.array([SPLITS.index(split) for split in declared], dtype=np.uint8)


def _by_fold(folds: Sequence[int], fold: int) -> SplitCodes:
    is_test = np.asarray(folds) == fold
    if not is_test.any():
        raise InputError(f"split.folds: the source has no clips in fold {fold}")
    return np.where(is_test, TEST, TRAIN).astype(np.uint8)
