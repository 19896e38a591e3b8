"""The loop: exact accumulation, every example as often as asked, and NaN ends it politely."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from configs.errors import TrainingFailed
from configs.models import BertModel, LinearModel, LstmModel, NeuralModel
from train import checkpoint
from train.data import TokenData
from train.journal import TIMES
from train.learner import build_learner
from train.loop import accumulate, prepare, train
from train.models import build
from train.stop import Stop
from train.training import Fit

MakeData = Callable[..., TokenData]
MakeFit = Callable[..., Fit]
SECTIONS: list[NeuralModel] = [
    BertModel(kind="bert", layers=1, width=8, heads=2, max_positions=32, dropout=0),
    LstmModel(kind="lstm", width=8, hidden=8, dropout=0),
    LinearModel(kind="linear", width=8, dropout=0),
]
LINEAR = LinearModel(kind="linear", width=8)


def built(fit: Fit, section: Any) -> nn.Module:
    prepare(fit.config)
    data = fit.data
    return build(section, data.seen, len(data.classes), data.longest)


def gradient(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.kind)
def test_micro_batches_add_up_to_the_batch(
    section: Any, task: str, random_data: MakeData, make_fit: MakeFit
) -> None:
    """Whole batches and the partial last one, of clips of 1 to 13 tokens."""
    data = random_data((16, 0, 1), task=task)
    for num_rows in (13, 5):
        rows = data.rows("train")[:num_rows]
        found = {}
        for size in (None, 1, 3, 7):
            fit = make_fit(data, batch_size=13, micro_batch_size=size)
            model = built(fit, section)
            step = next(data.stream(rows, fit.config).steps())
            loss = accumulate(fit, model, step, number=0)
            found[size] = loss, gradient(model)
        whole_loss, whole = found.pop(None)
        assert whole.norm() > 1e-3
        for loss, parts in found.values():
            assert loss == pytest.approx(whole_loss, rel=1e-6)
            assert (parts - whole).norm() / whole.norm() < 1e-6


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.kind)
def test_bf16_is_of_the_forward_pass_alone(
    section: Any, random_data: MakeData, make_fit: MakeFit
) -> None:
    """Gradients come together, and weights stay, in float32."""
    data, found = random_data((12, 0, 1)), {}
    for precision in ("fp32", "bf16"):
        fit = make_fit(data, batch_size=12, micro_batch_size=4, precision=precision)
        model = built(fit, section)
        step = next(data.stream(fit.rows, fit.config).steps())
        accumulate(fit, model, step, number=0)
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        found[precision] = gradient(model)
        assert found[precision].dtype == torch.float32
    error = (found["bf16"] - found["fp32"]).norm() / found["fp32"].norm()
    assert 1e-5 < error < 0.05


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_every_example_is_met_once_an_epoch(
    batch_size: int, make_data: MakeData, make_fit: MakeFit
) -> None:
    data = make_data([[n] for n in range(13)], [[0]] * 13, (11, 2, 0))
    fit = make_fit(data, epochs=3, batch_size=batch_size, micro_batch_size=2)
    model = built(fit, LINEAR)
    met: list[int] = []
    model.register_forward_pre_hook(
        lambda module, args: met.extend(args[0][:, 0, 0].tolist()) if module.training else None
    )
    train(fit, model, Stop())
    assert fit.num_steps == -(-33 // batch_size)
    for epoch in range(3):
        assert sorted(met[11 * epoch : 11 * (epoch + 1)]) == list(range(11))
    assert Counter(met) == dict.fromkeys(range(11), 3)
    assert met[:11] != met[11:22]


def test_what_is_logged(random_data: MakeData, make_fit: MakeFit) -> None:
    fit = make_fit(random_data((10, 6, 0)), epochs=4, batch_size=4, evaluate_every_epochs=2)
    train(fit, built(fit, LINEAR), Stop())
    records = fit.journal.read()
    steps = [record for record in records if "loss" in record]
    assert [record["step"] for record in steps] == [1, 10]
    assert [record["clips"] for record in steps] == [4, 4]
    named = {"lr", "grad_norm", "epoch", "padding_share", *TIMES}
    assert all(named <= record.keys() for record in steps)
    assert all(0 < record["padding_share"] < 1 for record in steps)
    assert steps[-1]["epoch"] == 4.0
    valid = [record for record in records if "valid_loss" in record]
    assert [record["step"] for record in valid] == [5, 10]
    assert all(0 <= record["valid_map"] <= 1 for record in valid)


def test_where_the_gradient_flows_is_logged_once_a_validation(
    random_data: MakeData, make_fit: MakeFit
) -> None:
    fit = make_fit(random_data((10, 6, 0)), epochs=4, batch_size=4, evaluate_every_epochs=2)
    model = built(fit, LINEAR)
    train(fit, model, Stop())
    flows = [record for record in fit.journal.read() if "gradient_flow" in record]
    assert [record["step"] for record in flows] == [1, 5, 10]
    for record in flows:
        assert record["gradient_flow"].keys() == {name for name, _ in model.named_parameters()}
        assert all(0 < mean < most for mean, most in record["gradient_flow"].values())


@pytest.mark.parametrize(
    ("micro", "cure"), [(4, "set train.micro_batch_size=2,"), (1, "take a smaller model")]
)
def test_a_batch_that_does_not_fit_says_what_would(
    micro: int, cure: str, random_data: MakeData, make_fit: MakeFit
) -> None:
    fit = make_fit(random_data((10, 0, 0)), batch_size=4, micro_batch_size=micro)
    model = built(fit, LINEAR)
    model.register_forward_pre_hook(exhaust)
    with pytest.raises(TrainingFailed, match=cure):
        train(fit, model, Stop())


def exhaust(*_: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_a_validation_that_does_not_fit_says_what_would(
    random_data: MakeData, make_fit: MakeFit
) -> None:
    fit = make_fit(random_data((10, 6, 0)), batch_size=4)
    model = built(fit, LINEAR)
    model.register_forward_pre_hook(lambda module, _: None if module.training else exhaust())
    said = r"4 clips of a validation .* set train\.micro_batch_size=2, and run the same command"
    with pytest.raises(TrainingFailed, match=said):
        train(fit, model, Stop())


def test_an_optimizer_that_does_not_fit_says_what_would(
    random_data: MakeData, make_fit: MakeFit, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = make_fit(random_data((10, 0, 0)), batch_size=4)
    monkeypatch.setattr(torch.optim.AdamW, "step", exhaust)
    with pytest.raises(TrainingFailed, match="the optimizer's state do not fit .* smaller model"):
        train(fit, built(fit, LINEAR), Stop())


def test_logits_that_are_no_numbers_end_training_as_such_a_loss_does(
    random_data: MakeData, make_fit: MakeFit
) -> None:
    """In the second validation; the step before it is not saved."""
    fit = make_fit(random_data((8, 6, 0)), epochs=3, checkpoint_every_steps=1)
    model = built(fit, LINEAR)

    def poison(module: nn.Module, _: Any, logits_BC: torch.Tensor) -> torch.Tensor:
        is_second = fit.checkpoints.joinpath("step-000003").exists() and not module.training
        return logits_BC * (float("inf") if is_second else 1)

    model.register_forward_hook(poison)
    with pytest.raises(TrainingFailed, match="validation after step 4 gave logits that are no num"):
        train(fit, model, Stop())
    newest = checkpoint.newest(fit.checkpoints, fit.partial)
    assert newest == fit.checkpoints / "step-000003"


def test_no_epoch_ends_before_the_first_step(random_data: MakeData, make_fit: MakeFit) -> None:
    fit = make_fit(random_data((8, 6, 0)), epochs=3)
    ends = [done for done in range(fit.num_steps + 1) if fit.ends_evaluated_epoch(done)]
    assert ends == [2, 4, 6]


def test_only_who_writes_the_weights_copies_them(random_data: MakeData, make_fit: MakeFit) -> None:
    fit = make_fit(random_data((8, 0, 0)))
    learner = build_learner(fit.config, built(fit, LINEAR), fit.ranks)
    assert learner.result(False) == {}
    assert learner.result(True).keys() == learner.model.state_dict().keys()


def test_validation_leaves_the_weights_alone(random_data: MakeData, make_fit: MakeFit) -> None:
    data = random_data((10, 6, 0))
    ends = []
    for every in (1, 100):
        fit = make_fit(data, epochs=3, evaluate_every_epochs=every)
        model = built(fit, LINEAR)
        train(fit, model, Stop())
        ends.append(nn.utils.parameters_to_vector(model.parameters()))
    assert torch.equal(*ends)


def test_a_loss_that_is_no_number_ends_training_and_keeps_the_checkpoint(
    random_data: MakeData, make_fit: MakeFit
) -> None:
    data = random_data((10, 0, 0))
    fit = make_fit(data, epochs=4, checkpoint_every_steps=1)
    model = built(fit, LINEAR)
    forwards: list[list[str]] = []

    def poison(module: nn.Module, args: Any) -> None:
        forwards.append(args)
        if len(forwards) == 4:
            module.get_parameter("head.bias").data.fill_(float("nan"))

    model.register_forward_pre_hook(poison)
    with pytest.raises(TrainingFailed, match="step 4 gave loss nan") as caught:
        train(fit, model, Stop())
    named = [clip_id for clip_id in data.ids if clip_id in str(caught.value)]
    assert len(named) == 4
    newest = checkpoint.newest(fit.checkpoints, fit.partial)
    assert newest == fit.checkpoints / "step-000003"
    resumed = make_fit(data, directory=fit.directory.name, epochs=4)
    whole = make_fit(data, epochs=4)
    ends = []
    for one in (resumed, whole):
        model = built(one, LINEAR)
        train(one, model, Stop())
        ends.append(nn.utils.parameters_to_vector(model.parameters()))
    assert torch.equal(*ends)


def test_a_stream_that_ends_early_is_no_finished_training(
    random_data: MakeData, make_fit: MakeFit, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = make_fit(random_data((12, 0, 0)))
    steps = fit.reader.steps
    monkeypatch.setattr(fit.reader, "steps", lambda place: (s for s in islice(steps(place), 2)))
    with pytest.raises(TrainingFailed, match="nothing more to read after step 2 of 6"):
        train(fit, built(fit, LINEAR), Stop())


def test_only_the_clips_and_parameters_without_a_number_are_named(
    make_data: MakeData, make_fit: MakeFit
) -> None:
    """Wherever in the batch they are."""
    clips = [[[1], [2]], [[3]], [[1], [15]], [[2]], [[4]], [[5]], [[6]], [[7]]]
    data = make_data(clips, [[0], [1]] * 4, (8, 0, 0))
    fit = make_fit(data, batch_size=8, micro_batch_size=2)
    model = built(fit, LINEAR)
    model.get_parameter("embedding.tables.0.weight").data[15] = float("nan")
    with pytest.raises(TrainingFailed) as caught:
        train(fit, model, Stop())
    assert [clip_id for clip_id in data.ids if clip_id in str(caught.value)] == ["clip002"]
    assert "gradients: embedding.tables.0.weight, embedding.mapped" in str(caught.value)


def test_the_initial_weights_are_those_of_the_seed(
    random_data: MakeData, make_fit: MakeFit
) -> None:
    data = random_data((4, 0, 0))
    firsts = [
        nn.utils.parameters_to_vector(built(make_fit(data, seed=seed), LINEAR).parameters())
        for seed in (0, 0, 1)
    ]
    assert torch.equal(firsts[0], firsts[1])
    assert not np.allclose(firsts[0].detach(), firsts[2].detach())
