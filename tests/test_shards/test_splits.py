"""Splits: a clip's part is decided by the clip alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from configs.errors import InputError
from configs.schema import SplitConfig
from shards.splits import TEST, TRAIN, VALID, SplitInputs, split_codes, unit_hash

IDS = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=30, unique=True)


def codes(
    ids: Sequence[str],
    config: SplitConfig,
    declared: Sequence[str] | None = None,
    folds: Sequence[int] | None = None,
    fold: int | None = None,
) -> list[int]:
    return split_codes(inputs(ids, declared, folds), config, fold).tolist()


def inputs(
    ids: Sequence[str],
    declared: Sequence[str] | None = None,
    folds: Sequence[int] | None = None,
    groups: Sequence[str | None] | None = None,
    labels: Sequence[Sequence[int]] | None = None,
) -> SplitInputs:
    count = len(ids)
    return SplitInputs(
        ids=ids,
        declared=declared or ["train"] * count,
        folds=folds or [0] * count,
        groups=groups or [None] * count,
        labels=labels or [[0]] * count,
    )


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


def test_a_fold_may_validate() -> None:
    folds = [1 + number % 5 for number in range(20)]
    config = SplitConfig(folds=(1, 2), valid_fold=4, valid_share=0.3)
    made = codes([f"clip{number}" for number in range(20)], config, folds=folds, fold=2)
    assert made == [TEST if own == 2 else VALID if own == 4 else TRAIN for own in folds]


@pytest.mark.parametrize("folds", [(), (1, 4)])
def test_a_fold_that_validates_is_none_that_tests(folds: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="valid_fold 4 wants folds, and to be none of them"):
        SplitConfig(folds=folds, valid_fold=4)


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


# --- rules that cut all clips ---------------------------------------------------------------------

RULES = ("hash", "exact", "stratified")


def shares(made: Sequence[int]) -> tuple[float, float]:
    return made.count(TEST) / len(made), made.count(VALID) / len(made)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_comes_near_the_shares(rule: str) -> None:
    config = SplitConfig.model_validate({"rule": rule, "test_share": 0.2, "valid_share": 0.1})
    made = codes([f"clip{number}" for number in range(4000)], config)
    assert shares(made) == pytest.approx((0.2, 0.1), abs=0.02 if rule == "hash" else 1e-9)


@given(ids=IDS, data=st.data())
def test_under_hash_a_clip_is_on_the_same_side_in_any_subset(
    ids: list[str], data: st.DataObject
) -> None:
    config = SplitConfig(rule="hash", test_share=0.3, valid_share=0.3)
    places = {number: unit_hash(f"a{number}", "split") for number in range(200)}
    anchor = next(f"a{number}" for number, place in places.items() if place > 0.6)
    part = [*data.draw(st.permutations(ids))[: len(ids) // 2], anchor]
    whole = dict(zip([*ids, anchor], codes([*ids, anchor], config), strict=True))
    assert codes(part, config) == [whole[clip_id] for clip_id in part]


def test_another_seed_is_another_exact_split_and_the_listing_order_none() -> None:
    ids = [f"clip{number}" for number in range(200)]
    one, two = (SplitConfig(rule="exact", seed=seed) for seed in (1, 2))
    assert codes(ids, one) != codes(ids, two)
    assert codes(ids[::-1], one)[::-1] == codes(ids, one)


def test_stratified_shares_hold_within_every_label() -> None:
    ids = [f"clip{number}" for number in range(900)]
    labels = [[0] if number < 600 else [1] if number < 850 else [2] for number in range(900)]
    config = SplitConfig(rule="stratified", test_share=0.2, valid_share=0.1)
    made = split_codes(inputs(ids, labels=labels), config).tolist()
    for label in range(3):
        of_label = [code for code, own in zip(made, labels, strict=True) if own == [label]]
        assert shares(of_label) == pytest.approx((0.2, 0.1), abs=1 / len(of_label))


def test_labels_of_few_clips_have_their_share_together() -> None:
    """A tenth of five clips is none; of a hundred such labels, it is fifty."""
    ids = [f"clip{number}" for number in range(500)]
    labels = [[number // 5] for number in range(500)]
    config = SplitConfig(rule="stratified", test_share=0.1, valid_share=0.1)
    made = split_codes(inputs(ids, labels=labels), config).tolist()
    assert shares(made) == pytest.approx((0.1, 0.1), abs=0.04)
    of_label = [made[start : start + 5].count(TEST) for start in range(0, 500, 5)]
    assert set(of_label) == {0, 1}


def test_a_large_group_counts_for_what_it_holds() -> None:
    groups = ["big"] * 300 + [None] * 100
    ids = [f"clip{number}" for number in range(400)]
    counts = []
    for seed in range(40):
        config = SplitConfig(rule="exact", test_share=0.2, valid_share=0.2, seed=seed)
        made = split_codes(inputs(ids, groups=groups), config).tolist()
        counts.append(made.count(TEST))
    assert sum(counts) / 40 == pytest.approx(80, rel=0.5)


def test_a_clip_of_several_labels_counts_for_its_rarest() -> None:
    ids = [f"clip{number}" for number in range(100)]
    labels = [[0, 1] if number < 10 else [0] for number in range(100)]
    config = SplitConfig(rule="stratified", test_share=0.2, valid_share=0.1)
    made = split_codes(inputs(ids, labels=labels), config).tolist()
    assert (made[:10].count(TEST), made[:10].count(VALID)) == (2, 1)


# --- groups -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["source", *RULES])
@given(sizes=st.lists(st.integers(1, 6), min_size=20, max_size=60), seed=st.integers(0, 9))
def test_no_rule_tears_a_group_apart(rule: str, sizes: list[int], seed: int) -> None:
    groups = [f"song{number}" for number, size in enumerate(sizes) for _ in range(size)]
    ids = [f"clip{number}" for number in range(len(groups))]
    tree = {"rule": rule, "seed": seed, "test_share": 0.2, "valid_share": 0.2}
    try:
        made = split_codes(inputs(ids, groups=groups), SplitConfig.model_validate(tree)).tolist()
    except InputError as error:
        assume("no clip is left" not in str(error))
        raise
    sides: dict[str, set[int]] = {}
    for group, code in zip(groups, made, strict=True):
        sides.setdefault(group, set()).add(code)
    assert all(len(found) == 1 for found in sides.values())


def test_a_group_that_the_source_tears_apart_is_fatal() -> None:
    given_splits = inputs(["a", "b"], ["train", "test"], groups=["song", "song"])
    with pytest.raises(InputError, match="group 'song' is in test and train"):
        split_codes(given_splits, SplitConfig(valid_share=0))


def test_a_group_in_two_folds_is_fatal() -> None:
    given_folds = inputs(["a", "b", "c"], folds=[1, 2, 2], groups=["song", "song", None])
    with pytest.raises(InputError, match="group 'song'"):
        split_codes(given_folds, SplitConfig(valid_share=0, folds=(1, 2)), fold=1)


def test_shares_that_leave_nothing_to_train_on_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing to train on"):
        SplitConfig(rule="hash", test_share=0.6, valid_share=0.4)
    assert SplitConfig(valid_share=0.95), "the rule source does not look at test_share"


@pytest.mark.parametrize("rule", RULES)
def test_folds_and_a_rule_that_cuts_are_refused(rule: str) -> None:
    with pytest.raises(ValueError, match=f"folds and rule {rule} both say what tests"):
        SplitConfig.model_validate({"rule": rule, "folds": (1, 2)})
