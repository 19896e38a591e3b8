"""Splits: a clip's part is decided by the clip alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from configs.errors import InputError
from configs.schema import SplitConfig
from shards.splits import TEST, TRAIN, VALID, split_codes, unit_hash

IDS = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=30, unique=True)


def codes(
    ids: Sequence[str],
    config: SplitConfig,
    declared: Sequence[str] | None = None,
    folds: Sequence[int] | None = None,
    fold: int | None = None,
) -> list[int]:
    declared = declared or ["train"] * len(ids)
    return split_codes(ids, declared, folds or [0] * len(ids), config, fold).tolist()


@given(ids=IDS, data=st.data())
def test_a_clip_is_on_the_same_side_in_any_subset_and_order(
    ids: list[str], data: st.DataObject
) -> None:
    config = SplitConfig(valid_share=0.4)
    anchor = next(f"train{n}" for n in range(99) if unit_hash(f"train{n}", "valid") >= 0.4)
    part = [*data.draw(st.permutations(ids))[: len(ids) // 2], anchor]
    whole = dict(zip([*ids, anchor], codes([*ids, anchor], config), strict=True))
    assert codes(part, config) == [whole[clip_id] for clip_id in part]


def test_a_training_clip_stays_where_it_is_when_a_declared_validation_clip_is_gone() -> None:
    ids = [f"clip{number}" for number in range(50)]
    declared = ["valid", *["train"] * 49]
    config = SplitConfig(valid_share=0.4)
    assert codes(ids[1:], config, declared[1:]) == codes(ids, config, declared)[1:]


@given(declared=st.lists(st.sampled_from(["train", "test"]), min_size=1, max_size=20))
def test_the_cut_takes_from_training_clips_only(declared: list[str]) -> None:
    ids = [f"clip{number}" for number in range(len(declared))]
    assume("train" in declared)
    try:
        made = codes(ids, SplitConfig(valid_share=0.3), declared)
    except InputError:
        assume(False)
    assert [code == TEST for code in made] == [split == "test" for split in declared]


def test_a_declared_validation_set_is_the_validation_set_where_nothing_is_cut() -> None:
    ids = [f"clip{number}" for number in range(200)]
    declared = ["valid", *["train"] * 198, "test"]
    made = codes(ids, SplitConfig(valid_share=0), declared)
    assert made == [VALID, *[TRAIN] * 198, TEST]


def test_the_cut_has_about_its_share() -> None:
    made = np.array(codes([f"clip{number}" for number in range(20_000)], SplitConfig()))
    assert (made == VALID).mean() == pytest.approx(0.1, abs=0.01)
    assert set(made.tolist()) == {TRAIN, VALID}


def test_no_share_no_validation() -> None:
    assert codes(["a", "b", "c"], SplitConfig(valid_share=0)) == [TRAIN] * 3


def test_known_hashes_stay_as_they_are() -> None:
    """A change here moves clips between splits: every score of before is void."""
    assert unit_hash("-0RWZT-miFs", "valid") == 0.9108375835422693
    assert unit_hash("-0RWZT-miFs", "other") != 0.9108375835422693


@given(st.text(), st.sampled_from(["valid", "draw", ""]))
def test_a_hash_is_a_share(clip_id: str, salt: str) -> None:
    assert 0 <= unit_hash(clip_id, salt) < 1


def test_first_letters_validate() -> None:
    ids = ["Abc", "abc", "Bcd", "-A", "zA"]
    config = SplitConfig(rule="first_letter", letters="AB")
    assert codes(ids, config) == [VALID, TRAIN, VALID, TRAIN, TRAIN]
    assert codes(ids, config, ["test", "train", "train", "train", "train"]) == [
        TEST,
        TRAIN,
        VALID,
        TRAIN,
        TRAIN,
    ]


@given(ids=IDS, data=st.data())
def test_every_clip_tests_in_its_own_fold(ids: list[str], data: st.DataObject) -> None:
    folds = data.draw(st.lists(st.integers(1, 3), min_size=len(ids), max_size=len(ids)))
    assume(len(set(folds)) > 1)
    for fold in set(folds):
        made = codes(ids, SplitConfig(valid_share=0), folds=folds, fold=fold)
        assert made == [TEST if own == fold else TRAIN for own in folds]


def test_validation_is_cut_from_a_folds_training_clips() -> None:
    ids = [f"clip{number}" for number in range(100)]
    folds = [1 + number % 5 for number in range(100)]
    made = codes(ids, SplitConfig(valid_share=0.3), folds=folds, fold=2)
    cut = [unit_hash(clip_id, "valid") < 0.3 for clip_id in ids]
    expected = [
        TEST if own == 2 else VALID if valid else TRAIN
        for own, valid in zip(folds, cut, strict=True)
    ]
    assert made == expected


def test_a_source_in_folds_must_be_used_in_folds() -> None:
    with pytest.raises(InputError, match=r"set split\.folds=\[1, 2\]"):
        codes(["a", "b", "c"], SplitConfig(), folds=[2, 1, 2])


def test_a_fold_that_the_source_lacks_is_refused() -> None:
    with pytest.raises(InputError, match="no clips in fold 3"):
        codes(["a", "b"], SplitConfig(), folds=[1, 2], fold=3)


@pytest.mark.parametrize("ids", [["a", "b"], []], ids=["all test", "no clip"])
def test_something_must_be_left_to_train_on(ids: list[str]) -> None:
    for rule in ("source", "first_letter"):
        config = SplitConfig(rule=rule)
        with pytest.raises(InputError, match="no clip is left to train on"):
            codes(ids, config, declared=["test"] * len(ids))
