"""Logits: in row order, whatever the batch, and of the model that was committed."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch

from configs.errors import IntegrityError
from configs.models import LinearModel
from configs.schema import Config
from pipeline.verbs import run_verb
from train import evaluate, fit
from train.data import TokenData, open_data
from train.jobs import CARD_NAME, WEIGHTS_NAME, jobs
from train.logits import logits_of, model_logits, scored
from train.models import build

CPU = torch.device("cpu")


def test_rows_keep_their_order_whatever_the_batch(
    random_data: Callable[..., TokenData],
) -> None:
    data = random_data((12, 0, 5))
    torch.manual_seed(0)
    model = build(LinearModel(kind="linear", width=8), data.seen, 4, data.longest).train()
    rows = np.array([16, 3, 3, 0, 12])
    whole_NC = logits_of(model, data, rows, 100, CPU)
    assert whole_NC.shape == (5, 4)
    assert whole_NC.dtype == np.float32
    assert (whole_NC[1] == whole_NC[2]).all()
    for size in (1, 2, 4):
        np.testing.assert_allclose(logits_of(model, data, rows, size, CPU), whole_NC, atol=1e-6)
    assert model.training, "it was left as it was"
    assert logits_of(model, data, rows[:0], 4, CPU).shape == (0, 4)


def test_committed_models_are_read_back_and_altered_ones_refused(
    copy_run: Callable[..., Config],
) -> None:
    config = copy_run()
    for job in jobs(config):
        data = open_data(job.layout, job.tokens, config.split, job.fold)
        rows = data.rows(data.test_split)
        logits_NC = model_logits(config, job, data, rows)
        assert logits_NC.shape == (len(rows), len(data.classes))
        assert np.ptp(logits_NC, axis=0).min() > 0, "clips differ"
        weights = job.directory / WEIGHTS_NAME
        changed = bytearray(weights.read_bytes())
        changed[-1] ^= 1
        weights.write_bytes(changed)
        with pytest.raises(IntegrityError, match=WEIGHTS_NAME):
            model_logits(config, job, data, rows)


@pytest.mark.parametrize("combine", ["product", "residual"])
def test_networks_of_several_codebooks_are_trained_and_scored(
    combine: str, copy_run: Callable[..., Config]
) -> None:
    over = {"name": "several", "k": 8, "codebooks": 2, "combine": combine}
    models = {
        "linear": {"kind": "linear", "width": 8},
        "bert": {
            "kind": "bert",
            "layers": 1,
            "width": 8,
            "heads": 2,
            "pooling": "attention",
        },
    }
    config = copy_run(codebook=over, models=models, model="linear,bert", train={"epochs": 2})
    for verb in ("codebook", "tokenize"):
        assert run_verb(config, verb) == 0
    assert fit.run(config) == 0
    assert evaluate.run(config) == 0
    for job in jobs(config):
        assert job.name.startswith("several-")
        card = json.loads((job.directory / CARD_NAME).read_text())
        assert card["codebooks"] == 2
        assert (job.directory / "eval.json").exists()


def test_little_is_computed_on_one_thread_and_much_on_all() -> None:
    seen: list[int] = []

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1_000_000))

        def forward(self, inputs_BTN: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
            seen.append(torch.get_num_threads())
            return inputs_BTN[:, 0].float()

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for num_places in (99, 1001):
            scored(Model(), torch.zeros(10, num_places, 1), torch.full((10,), num_places))
        assert seen == [1, 3]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
