"""Intervals by bootstrap: draws are scored as clips drawn by hand would be, and cover the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from train import bootstrap
from train.bootstrap import interval, map_replicates, share_replicates
from train.metrics import mean_ap


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000))
def test_a_replicate_is_the_score_of_the_clips_that_were_drawn(seed: int) -> None:
    random = np.random.default_rng(seed)
    num_clips = int(random.integers(2, 30))
    scores_NC = random.standard_normal((num_clips, 3)).round(1)
    targets_NC = (random.random((num_clips, 3)) < 0.4).astype(np.float32)
    targets_NC[0, 0] = 1
    maps_B = map_replicates(scores_NC, targets_NC)
    shares_B = share_replicates(targets_NC[:, 0] > 0)
    counts_NB = bootstrap._draws(num_clips)
    assert (counts_NB.sum(axis=0) == num_clips).all()
    for b in range(0, bootstrap.REPLICATES, 10):
        drawn = np.repeat(np.arange(num_clips), counts_NB[:, b])
        has = targets_NC[drawn].any(axis=0)
        assert shares_B[b] == pytest.approx(targets_NC[drawn, 0].mean())
        if has.any():
            expected = average_precision_score(
                targets_NC[drawn][:, has], scores_NC[drawn][:, has], average="macro"
            )
            assert maps_B[b] == pytest.approx(expected)
        else:
            assert np.isnan(maps_B[b])


def test_intervals_are_as_wide_as_scores_of_other_clips_would_scatter() -> None:
    """400 clips of 5 classes, again and again: intervals hold the mean score in most cases."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(60):
        targets_NC = (random.random((400, 5)) < 0.15).astype(np.float32)
        scores_NC = random.standard_normal((400, 5)) + targets_NC
        score = mean_ap(scores_NC.astype(np.float32), targets_NC, "multilabel")
        found.append((score, *interval(score, map_replicates(scores_NC, targets_NC))))
    scores, lows, highs = np.array(found).T
    held = ((lows <= scores.mean()) & (scores.mean() <= highs)).mean()
    assert held > 0.85
    assert ((highs - lows) / 2 / 1.96).mean() == pytest.approx(scores.std(), rel=0.3)


def test_two_models_on_the_same_clips_are_of_the_same_draws() -> None:
    """So their difference scatters less than they do."""
    random = np.random.default_rng(1)
    targets_NC = (random.random((300, 4)) < 0.2).astype(np.float32)
    scores_NC = random.standard_normal((300, 4)) + targets_NC
    better_NC = scores_NC + 0.1 * targets_NC
    one_B, other_B = map_replicates(scores_NC, targets_NC), map_replicates(better_NC, targets_NC)
    assert (other_B - one_B).std() < 0.3 * one_B.std()


def test_an_interval_of_a_share_is_one_of_shares() -> None:
    assert interval(0.99, np.array([0.9, 1.0, 0.95])) == (pytest.approx(0.892), 1.0)
