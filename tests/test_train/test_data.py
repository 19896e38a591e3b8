"""Token sets as training data: batches, targets, splits, and ids that belong to their labels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from configs.errors import InputError, NotMadeYet
from configs.schema import Config, SplitConfig
from shards import plan as plans
from shards.layout import Layout
from shards.splits import SPLITS
from train.data import TokenData, open_data

MakeData = Callable[..., TokenData]


@pytest.fixture
def opened(finished: Config) -> TokenData:
    return open_data(Layout(finished.run), "default", finished.split, None)


def test_a_batch_holds_tokens_padding_lengths_and_targets(make_data: MakeData) -> None:
    data = make_data([[3, 1], [0, 0, 15, 2], [7]], [[0], [1, 3], []], (1, 1, 1))
    (batch,) = data.batches(np.array([2, 1, 0]), 3)
    pad = data.pad_id
    assert pad == 16
    assert batch.inputs_BTN[:, :, 0].tolist() == [
        [7, pad, pad, pad],
        [0, 0, 15, 2],
        [3, 1, pad, pad],
    ]
    assert batch.lengths_B.tolist() == [1, 4, 2]
    assert batch.targets_BC.tolist() == [[0, 0, 0, 0], [0, 1, 0, 1], [1, 0, 0, 0]]


def test_batches_keep_the_order_and_the_last_one_is_smaller(random_data: MakeData) -> None:
    data = random_data((11, 2, 2))
    rows = data.rows("train")[::-1]
    batches = list(data.batches(rows, 4))
    assert [len(batch.lengths_B) for batch in batches] == [4, 4, 3]
    clips = [
        tokens_TQ[:length].tolist()
        for batch in batches
        for tokens_TQ, length in zip(batch.inputs_BTN, batch.lengths_B, strict=True)
    ]
    assert clips == [clip_TQ.tolist() for clip_TQ in data.source.read(rows).clips()]


def test_the_longest_clip_may_be_of_any_split(make_data: MakeData) -> None:
    assert make_data([[1], [1, 2], [1, 2, 3]], [[0], [0], [0]], (1, 1, 1)).longest == 3


def test_ids_stand_beside_the_labels_of_the_plan(finished: Config, opened: TokenData) -> None:
    plan = plans.load(Layout(finished.run))
    ids = plan.column("id").to_pylist()
    labels = dict(zip(ids, plan.column("labels").to_pylist(), strict=True))
    targets_NC = opened.targets(np.arange(len(opened.ids)))
    assert sorted(opened.ids) == sorted(ids)
    for clip_id, targets_C in zip(opened.ids, targets_NC, strict=True):
        assert np.flatnonzero(targets_C).tolist() == sorted(labels[clip_id])


def test_splits_are_disjoint_and_whole(finished: Config, opened: TokenData) -> None:
    rows = {split: set(opened.rows(split).tolist()) for split in SPLITS}
    assert all(rows.values())
    assert sum(map(len, rows.values())) == len(opened.ids)
    assert set.union(*rows.values()) == set(range(len(opened.ids)))
    plan = plans.load(Layout(finished.run))
    pairs = zip(plan.column("id").to_pylist(), plan.column("split").to_pylist(), strict=True)
    declared = {clip_id for clip_id, split in pairs if split == "test"}
    assert {opened.ids[row] for row in rows["test"]} == declared


def test_sets_without_test_clips_are_tested_on_validation_clips(random_data: MakeData) -> None:
    assert random_data((6, 2, 2)).test_split == "test"
    assert random_data((6, 2, 0)).test_split == "valid"


def test_a_fold_that_the_source_lacks_is_refused(finished: Config) -> None:
    with pytest.raises(InputError, match="no clips in fold 3"):
        open_data(Layout(finished.run), "default", SplitConfig(folds=(3,)), 3)


def test_tokens_that_are_not_made_yet(finished: Config) -> None:
    with pytest.raises(NotMadeYet, match="python -m pipeline tokenize"):
        open_data(Layout(finished.run), "k5000", finished.split, None)
