"""What follows from validation scores: rates, an early end, and which weights are kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from configs.errors import ConfigError
from configs.models import LinearModel
from configs.schema import TrainConfig
from tests.test_train.conftest import CopyRun, MakeData, MakeFit
from tests.test_train.test_resume import die, run
from train import checkpoint, fit
from train.history import History
from train.learner import Average
from train.loop import Fit

LINEAR = LinearModel(kind="linear", width=8, dropout=0.3)


def history_of(*scores: float) -> History:
    return History({10 * n: score for n, score in enumerate(scores, 1)})


@pytest.mark.parametrize(
    ("scores", "patience", "reductions"),
    [
        ((), 1, 0),
        ((0.5,), 1, 0),
        ((0.5, 0.5), 1, 1),
        ((0.5, 0.4, 0.6, 0.6, 0.1), 2, 1),
        ((0.5, 0.4, 0.4, 0.4, 0.4), 2, 2),
        ((0.1, 0.2, 0.3, 0.4), 1, 0),
    ],
)
def test_a_plateau_is_so_many_validations_without_gain(
    scores: tuple[float, ...], patience: int, reductions: int
) -> None:
    assert history_of(*scores).num_reductions(patience) == reductions


@pytest.mark.parametrize(
    ("scores", "is_over"),
    [((0.5,), False), ((0.5, 0.4), False), ((0.5, 0.4, 0.5), True), ((0.5, 0.4, 0.6), False)],
)
def test_it_ends_after_two_that_bring_nothing(scores: tuple[float, ...], is_over: bool) -> None:
    assert history_of(*scores).is_over(TrainConfig(early_stop=2)) is is_over
    assert not history_of(*scores).is_over(TrainConfig())


def test_of_equal_scores_the_first_is_the_best() -> None:
    assert history_of(0.1, 0.4, 0.4, 0.2).best_step == 20
    assert History().best_step is None


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The scores that validations find after epoch 1, 2 ... of two steps each, whatever the
    weights."""
    scores: list[float] = []

    def validate(fit: Fit, _: Any, done: int, history: History, __: Any) -> None:
        score = scores[done // 2 - 1]
        fit.log({"step": done, "valid_loss": 0.7, "valid_map": score})
        history.scores[done] = score

    monkeypatch.setattr("train.loop._validate", validate)
    monkeypatch.setattr("train.loop.LOG_EVERY_STEPS", 1)
    return scores


def test_the_rate_falls_where_validation_stands_still(
    scripted: list[float], random_data: MakeData, make_fit: MakeFit
) -> None:
    scripted += [0.5, 0.4, 0.4, 0.6, 0.6, 0.6]
    data, settings = random_data((8, 4, 0)), {"schedule": "plateau", "warmup_share": 0.0}
    settings |= {"plateau_patience": 2, "plateau_factor": 0.5, "lr": 0.08, "epochs": 6}
    one = make_fit(data, checkpoint_every_steps=2, **settings)
    run(one, LINEAR)
    rates = [record["lr"] for record in one.journal.read() if "lr" in record]
    assert rates == pytest.approx([0.08] * 6 + [0.04] * 6)
    with pytest.raises(ZeroDivisionError):
        run(make_fit(data, directory="died", checkpoint_every_steps=2, **settings), LINEAR, 8, die)
    again = make_fit(data, directory="died", checkpoint_every_steps=2, **settings)
    run(again, LINEAR)
    assert [r["lr"] for r in again.journal.read() if "lr" in r] == pytest.approx(rates)


def test_it_ends_early_and_keeps_the_best(
    scripted: list[float],
    random_data: MakeData,
    make_fit: MakeFit,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scripted += [0.1, 0.7, 0.3, 0.2]
    data = random_data((8, 4, 0))
    settings = {"epochs": 20, "early_stop": 2, "keep_checkpoints": 1, "checkpoint_every_steps": 3}
    one = make_fit(data, select="best", **settings)
    run(one, LINEAR)
    assert max(record["step"] for record in one.journal.read()) == 8
    assert "step 4 scored best, mAP 70.00 %" in capsys.readouterr().out
    kept = sorted(path.name for path in one.checkpoints.iterdir())
    assert kept == ["step-000004", "step-000006"]


def test_where_nobody_validates_nothing_can_go_by_it(copy_run: CopyRun) -> None:
    made = {"kind": "linear", "width": 8}
    config = copy_run(models={"made": made}, model=("made",))
    train = config.train.model_copy(update={"early_stop": 2})
    split = config.split.model_copy(update={"valid_share": 0.0})
    with pytest.raises(ConfigError, match="go by the validation clips, and there are none"):
        fit.run(config.model_copy(update={"train": train, "split": split}))


def test_the_average_is_the_exponential_one_after_a_start() -> None:
    model = nn.Linear(3, 2)
    average = Average(model, decay=0.5)
    expected = model.weight.detach().clone().double()
    for done in range(1, 30):
        with torch.no_grad():
            model.weight += torch.randn(2, 3)
        average.update(done)
        decay = min(0.5, done / (done + 9))
        expected = decay * expected + (1 - decay) * model.weight.double()
    torch.testing.assert_close(average.tensors["weight"].double(), expected, rtol=1e-5, atol=1e-5)
    own = model.weight.detach().clone()
    with average.in_place():
        torch.testing.assert_close(model.weight.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(model.weight, own)


def test_the_average_is_what_a_training_ends_with(random_data: MakeData, make_fit: MakeFit) -> None:
    data = random_data((8, 4, 0))
    plain, averaged = make_fit(data, epochs=5), make_fit(data, epochs=5, average_decay=0.99)
    weights = run(plain, LINEAR), run(averaged, LINEAR)
    assert torch.equal(*weights), "the model itself is trained as without"
    newest = checkpoint.newest(averaged.checkpoints, averaged.partial)
    assert newest is not None
    assert (newest / "average.safetensors").exists()
    valid = [
        [record["valid_loss"] for record in one.journal.read() if "valid_loss" in record]
        for one in (plain, averaged)
    ]
    assert valid[0][-1] != valid[1][-1]
