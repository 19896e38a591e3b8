"""Who decays, and the learning rate of every step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from torch import nn

from configs.models import BertModel, FrameModel, LstmModel, Model
from configs.schema import TrainConfig
from train.models import build
from train.models.embedding import Vocabulary
from train.optim import build_optimizer, learning_rate

SECTIONS = [
    BertModel(kind="bert", layers=1, width=8, heads=2, max_positions=16, embedding="random"),
    LstmModel(kind="lstm", width=4, hidden=4, embedding="random"),
]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.kind)
def test_only_weight_matrices_decay(section: BertModel | LstmModel) -> None:
    model = build(section, Vocabulary(6), 3, 9)
    decay, keep = build_optimizer(model, 1e-3, 0.05).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decaying = {names[id(parameter)] for parameter in decay["params"]}
    kept = {names[id(parameter)] for parameter in keep["params"]}
    assert (decay["weight_decay"], keep["weight_decay"]) == (0.05, 0.0)
    assert decaying.isdisjoint(kept)
    assert decaying | kept == set(names.values())
    assert "head.weight" in decaying
    assert not [n for n in decaying if "bias" in n or "LayerNorm" in n or "embeddings" in n]
    assert not [n for n in kept if "dense.weight" in n or "query.weight" in n]


BERT = {"layers": 1, "width": 8, "heads": 2, "max_positions": 16}
OF_BERT = {"encoder.embeddings.position_embeddings.weight"}
OF_BERT |= {"encoder.embeddings.token_type_embeddings.weight"}
WORDS, TABLE = "encoder.embeddings.word_embeddings.weight", "embedding.tables.0.weight"
OF_AST = {"cls_token", "distillation_token", "position_embeddings"}
EMBEDDINGS: list[tuple[dict[str, Any], set[str]]] = [
    ({"kind": "linear", "width": 8}, {TABLE}),
    ({"kind": "lstm", "width": 4, "hidden": 4, "pooling": "attention"}, {TABLE}),
    ({"kind": "bert", "stride": 2, **BERT}, OF_BERT | {WORDS}),
    ({"kind": "bert_frames", "pooling": "attention", **BERT}, OF_BERT),
    ({"kind": "cnn", "channels": [2, 4], "hidden": 4}, set()),
    ({"kind": "mlp", "hidden": [4, 4]}, set()),
    (
        {"kind": "ast", "layers": 1, "width": 8, "heads": 2, "max_length": 32},
        {f"encoder.embeddings.{name}" for name in OF_AST},
    ),
]


@pytest.mark.parametrize(
    ("tree", "embeddings"), EMBEDDINGS, ids=[tree["kind"] for tree, _ in EMBEDDINGS]
)
def test_all_decays_but_vectors_and_embeddings(tree: dict[str, Any], embeddings: set[str]) -> None:
    section: Any = TypeAdapter(Model).validate_python(tree)
    seen = (
        32 if isinstance(section, FrameModel) else Vocabulary(6, 1, np.ones((1, 5, 3), np.float32))
    )
    model = build(section, seen, 3, 9)
    decay, _ = build_optimizer(model, 1e-3, 0.05).param_groups
    decaying = {id(parameter) for parameter in decay["params"]}
    named = dict(model.named_parameters())
    vectors = {name for name, parameter in named.items() if parameter.ndim < 2}
    kept = {name for name, parameter in named.items() if id(parameter) not in decaying}
    assert kept == vectors | embeddings


def test_a_step_without_gradient_shrinks_matrices_alone() -> None:
    model = nn.Sequential(nn.Embedding(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = build_optimizer(model, lr=0.1, weight_decay=0.5)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    changed = {n for n, value in model.named_parameters() if not torch.equal(value, before[n])}
    assert changed == {"2.weight"}
    torch.testing.assert_close(model.get_parameter("2.weight"), 0.95 * before["2.weight"])


@given(num_steps=st.integers(1, 300), warmup=st.floats(0, 0.9))
def test_the_rate_climbs_to_its_peak_and_falls_to_zero(num_steps: int, warmup: float) -> None:
    config = TrainConfig(lr=2.0, warmup_share=warmup)
    rates = [learning_rate(step, num_steps, config) for step in range(num_steps)]
    assert all(0 < rate <= 2.0 for rate in rates)
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert abs(peak - warmup * num_steps) <= 1


def test_the_cosine_passes_half_way_and_ends_near_zero() -> None:
    config = TrainConfig(lr=1.0, warmup_share=0.2)
    rates = [learning_rate(step, 1000, config) for step in range(1000)]
    assert rates[99] == pytest.approx(0.5, abs=0.01)
    assert rates[200] == 1.0
    assert rates[600] == pytest.approx(0.5)
    assert rates[-1] < 1e-5


def test_a_constant_rate_stays_after_the_warm_up() -> None:
    config = TrainConfig(lr=1e-3, schedule="constant", warmup_share=0.1)
    rates = [learning_rate(step, 100, config) for step in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[9] < 1e-3
    assert set(rates[10:]) == {1e-3}


@pytest.mark.parametrize(("num_steps", "warmup"), [(100, 0.3), (37, 0.1), (10, 0.5)])
def test_one_cycle_is_torchs(num_steps: int, warmup: float) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.02, total_steps=num_steps, pct_start=warmup, cycle_momentum=False
    )
    expected = []
    for _ in range(num_steps):
        expected.append(theirs.get_last_lr()[0])
        optimizer.step()
        if len(expected) < num_steps:
            theirs.step()
    config = TrainConfig(lr=0.02, schedule="one_cycle", warmup_share=warmup)
    rates = [learning_rate(step, num_steps, config) for step in range(num_steps)]
    assert rates == pytest.approx(expected, rel=1e-9)
