"""Mixup: embeddings and targets in the same shares, drawn for each clip and epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from shards.stream.schedule import World
from tests.test_train.conftest import with_config
from tests.test_train.test_frame_models import SECTIONS as FRAME_SECTIONS
from tests.test_train.test_frame_models import make_model as make_frame_model
from tests.test_train.test_models import SECTIONS, K, make_model
from train.batches import Batch
from train.data import TokenData
from train.models.classifier import Mix

MakeData = Callable[..., TokenData]
LENGTHS_B = torch.tensor([5, 9, 1, 7])
PARTNERS_B = torch.tensor([1, 2, 3, 0])


def mix_of(*shares: float) -> Mix:
    return Mix(torch.tensor(shares), PARTNERS_B)


def model_and_inputs(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A model that adds up what it hears, and four clips that are padded."""
    torch.manual_seed(1)
    if name in FRAME_SECTIONS:
        model, inputs_BTN = make_frame_model(name), torch.randn(4, 9, 16)
    else:
        model, inputs_BTN = make_model(name), torch.randint(K, (4, 9, 1))
    for place, length in enumerate(LENGTHS_B.tolist()):
        inputs_BTN[place, length:] = K if name in SECTIONS else 0
    return model.eval(), inputs_BTN


@torch.no_grad()
@pytest.mark.parametrize("name", [*SECTIONS, *FRAME_SECTIONS])
def test_a_whole_share_is_the_clip_itself_and_none_is_its_partner(name: str) -> None:
    model, inputs_BTN = model_and_inputs(name)
    alone_BC = model(inputs_BTN, LENGTHS_B)
    longest = LENGTHS_B.maximum(LENGTHS_B[PARTNERS_B])
    same = longest == LENGTHS_B  # else what follows the clip counts as nothing, which is something
    own_BC = model(inputs_BTN, LENGTHS_B, mix_of(1, 1, 1, 1))
    torch.testing.assert_close(own_BC[same], alone_BC[same], rtol=1e-5, atol=1e-5)
    same = longest == LENGTHS_B[PARTNERS_B]
    other_BC = model(inputs_BTN, LENGTHS_B, mix_of(0, 0, 0, 0))
    torch.testing.assert_close(other_BC[same], alone_BC[PARTNERS_B][same], rtol=1e-5, atol=1e-5)
    assert (alone_BC - alone_BC[PARTNERS_B]).abs().max() > 1e-4, "or nothing is tested"


@torch.no_grad()
@pytest.mark.parametrize("name", [*SECTIONS, *FRAME_SECTIONS])
def test_padding_changes_no_mixed_logits(name: str) -> None:
    model, inputs_BTN = model_and_inputs(name)
    mix = mix_of(0.3, 0.9, 0.5, 0.7)
    wider_BTN = nn.functional.pad(inputs_BTN, (0, 0, 0, 5), value=K if name in SECTIONS else 3.0)
    expected_BC = model(inputs_BTN, LENGTHS_B, mix)
    torch.testing.assert_close(model(wider_BTN, LENGTHS_B, mix), expected_BC, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["linear", "linear-bag"])
def test_logits_of_what_is_linear_mix_as_targets_do(name: str) -> None:
    model, lengths_B = make_model(name).eval(), torch.full((4,), 9)
    for parameter in model.parameters():
        parameter.normal_()  # the bag's path begins at zero
    tokens_BTQ, mix = torch.randint(K, (4, 9, 1)), mix_of(0.3, 0.9, 0.5, 0.7)
    expected_BC = mix.of(model(tokens_BTQ, lengths_B))
    torch.testing.assert_close(model(tokens_BTQ, lengths_B, mix), expected_BC)


def batches_of(data: TokenData, make_fit: Callable[..., Any], **over: Any) -> Iterator[Batch]:
    fit = make_fit(data, mixup=0.4, **over)
    for rank in range(2):
        for step in data.stream(fit.rows, fit.config, World(rank, 2)).steps():
            yield from step.batches


def test_shares_hang_on_clip_and_epoch_alone(random_data: MakeData, make_fit: Any) -> None:
    data = random_data((41, 0, 0))
    found: list[dict[int, list[float]]] = []
    for size in (3, 8):
        found.append({row: [] for row in range(41)})
        config = {"epochs": 2, "batch_size": 16, "micro_batch_size": size}
        for batch in batches_of(data, make_fit, **config):
            assert batch.mix is not None
            for row, share in zip(batch.rows_B, batch.mix.shares_B.tolist(), strict=True):
                found[-1][int(row)].append(share)
    first, second = ({row: sorted(own) for row, own in one.items()} for one in found)
    assert first == second
    drawn = np.concatenate([*found[0].values()])
    assert len(np.unique(drawn)) == 82, "another share in each epoch"
    assert stats.kstest(drawn, stats.beta(0.4, 0.4).cdf).pvalue > 1e-3


def test_targets_are_mixed_with_clips_that_count(random_data: MakeData, make_fit: Any) -> None:
    data = with_config(random_data((13, 0, 0)), tail="pad")
    num_filling = 0
    for batch in batches_of(data, make_fit, batch_size=8, epochs=1):
        assert batch.mix is not None
        plain_BC = torch.from_numpy(data.targets(batch.rows_B))
        torch.testing.assert_close(batch.targets_BC, batch.mix.of(plain_BC))
        counts = batch.weights_B > 0
        assert counts[batch.mix.partners_B][counts].all()
        assert sorted(batch.mix.partners_B.tolist()) == [*range(len(counts))]
        num_filling += int((~counts).sum())
    assert num_filling > 0, "or nothing is tested"


def test_validation_is_not_mixed(random_data: MakeData) -> None:
    data = random_data((4, 8, 0))
    assert all(batch.mix is None for batch in data.batches(data.rows("valid"), 4))
