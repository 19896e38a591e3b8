"""torch.compile: the same training, but for rounding; and after a kill the same, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from configs.errors import InputError, Preempted
from configs.models import BertModel, LinearModel
from tests.test_train.conftest import with_config
from tests.test_train.test_resume import run, terminate
from train.data import TokenData
from train.learner import build_learner
from train.ranks import Ranks

# of torch's own code, and not seen but where warnings are errors
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
]

MakeData = Callable[..., TokenData]


BERT = BertModel(kind="bert", layers=1, width=8, heads=2, max_positions=32, dropout=0)
LINEAR = LinearModel(kind="linear", width=8, dropout=0.3)


def test_it_is_the_same_training_but_for_rounding(random_data: MakeData, make_fit: Any) -> None:
    data = with_config(random_data((8, 0, 0)), lengths="fixed", tail="drop")
    plain = run(make_fit(data, lr=0.01), BERT)
    compiled = run(make_fit(data, lr=0.01, compile=True), BERT)
    torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-5)
    start = run(make_fit(data, lr=1e-30), BERT)
    assert (plain - start).abs().max() > 1e-3, "or nothing is tested"


def test_a_killed_run_ends_with_the_same_weights(random_data: MakeData, make_fit: Any) -> None:
    data = with_config(random_data((8, 0, 0)), lengths="fixed", tail="drop")
    whole = run(make_fit(data, compile=True), LINEAR)
    with pytest.raises(Preempted):
        run(make_fit(data, compile=True, directory="stopped"), LINEAR, 2, terminate)
    again = run(make_fit(data, compile=True, directory="stopped"), LINEAR)
    assert torch.equal(again, whole)


def test_no_compiler_is_an_error_with_a_cure(make_fit: Any, random_data: MakeData) -> None:
    config = make_fit(random_data((4, 0, 0)), compile=True).config
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "/nowhere")
        patch.delenv("CXX", raising=False)
        with pytest.raises(InputError, match="needs a C\\+\\+ compiler.*install g"):
            build_learner(config, torch.nn.Linear(2, 2), Ranks(torch.device("cpu")))
